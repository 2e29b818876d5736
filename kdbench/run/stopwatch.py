"""Seconds of one step of many networks, measured within a time that a person waits for."""

from __future__ import annotations

import time
from collections.abc import Iterable
from statistics import median

import torch

from kdbench import models
from kdbench.engine.errors import OutOfMemory, holds

#: Seconds for all networks together, and images that are enough to know what one costs.
BUDGET, ENOUGH, FEW = 4.0, 128, 4
#: Pixels of the side of the largest images that are tried.
PIXELS = 1024

Asked = tuple[str, bool]  # a network, and whether it learns or is only looked at


class Stopwatch:
    """Times networks in turn; each has its share of what is left of the budget.

    Args:
        size: pixels of the images' side.
        classes: K.
        batch: images of the steps that are asked about.
        device: where.
        budget: seconds for all of them.
    """

    def __init__(self, *, size: int, classes: int, batch: int, device: torch.device, budget: float = BUDGET) -> None:
        self.size, self.classes, self.batch, self.device = size, classes, batch, device
        self.left, self.known, self.guessed = budget, dict[Asked, float](), set[Asked]()

    def measure(self, asked: Iterable[Asked]) -> None:
        """Time them; those that the budget does not reach are guessed from the others.

        Raises:
            ValueError: a network cannot be built for these images, or they are too large to try.
        """
        todo = [one for one in dict.fromkeys(asked) if one not in self.known]
        if todo and self.size > PIXELS:
            raise ValueError(f"images of {self.size} px are not tried in a dry run, {PIXELS} are the most")
        for number, one in enumerate(todo):
            started = time.perf_counter()
            if self.left > 0 or not self.known:
                try:
                    with holds(f"a step of {one[0]}", self.device):
                        self.known[one] = self._seconds(*one, self.left / (len(todo) - number))
                except OutOfMemory as error:
                    raise ValueError(str(error)) from error
            else:
                self.guessed.add(one)
            self.left -= time.perf_counter() - started
        for one in self.guessed:
            alike = [seconds for (_, learns), seconds in self.known.items() if learns == one[1]]
            self.known[one] = median(alike or self.known.values())

    def step(self, name: str, learns: bool) -> float:
        """Seconds of a step with a batch; ``measure`` has been told of it."""
        return self.known[name, learns]

    def _seconds(self, name: str, learns: bool, share: float) -> float:
        net = models.create(name, self.classes, image_size=self.size, pretrained=False)
        net = net.to(self.device).train(learns)
        few, many = min(self.batch, FEW), min(self.batch, ENOUGH)

        def step(images: int) -> float:
            image = torch.randn(images, 3, self.size, self.size, device=self.device)
            started = time.perf_counter()
            with torch.set_grad_enabled(learns):
                logits = net(image).logits
                if learns:
                    logits.sum().backward()
            if self.device.type == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - started

        step(few)  # what is made on first use
        small = step(few)
        if 2 * small * many / few > share:
            return small * self.batch / few
        step(many)
        return step(many) * self.batch / many
