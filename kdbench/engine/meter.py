"""The terms of an epoch, step by step: they stay on the device until the epoch ends, so that nothing waits for it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Meter:
    """Collects terms; one step is one batch.

    >>> meter = Meter()
    >>> meter.saw(0, 2, {"ce": torch.tensor([3.0])})
    >>> meter.saw(1, 1, {"ce": torch.tensor([6.0])})
    >>> meter.steps, meter.images, meter.means()
    (2, 3, ({'ce': 4.0}, None))
    """

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[int, int, Tensor]]] = {}  # term -> (first step, images of each, values)
        self.steps, self.images = 0, 0

    def saw(self, first: int, images: int, values: Mapping[str, Tensor]) -> None:
        """Keep the terms of the steps from ``first`` on, (steps,) each, of batches of so many images."""
        steps = 0
        for name, value in values.items():
            self._seen.setdefault(name, []).append((first, images, value))
            steps = len(value)
        self.steps += steps
        self.images += steps * images

    def means(self) -> tuple[dict[str, float], tuple[str, float] | None]:
        """Mean of each term over the images that it was computed on; waits for the device.

        And the first term, with its value, that was infinite or no number; None: none was.
        """
        means: dict[str, float] = {}
        bad: list[tuple[int, str, float]] = []
        for name, seen in self._seen.items():
            found = torch.cat([values for _, _, values in seen]).tolist()
            steps, images = self._by_step(name)
            means[name] = (
                math.fsum(n * v for n, v in zip(images, found, strict=True)) / sum(images)
                if all(map(math.isfinite, found))
                else math.nan
            )
            bad += [(step, name, value) for step, value in zip(steps, found, strict=True) if not math.isfinite(value)]
        return means, min(bad, key=lambda entry: entry[0])[1:] if bad else None

    def _by_step(self, name: str) -> tuple[list[int], list[int]]:
        """Number and images of every step that a term was seen in."""
        seen = self._seen[name]
        steps = [first + i for first, _, values in seen for i in range(len(values))]
        return steps, [n for _, n, values in seen for _ in range(len(values))]

    def state(self) -> dict[str, Any]:
        """For a checkpoint in mid-epoch.

        >>> meter = Meter()
        >>> meter.saw(0, 2, {"ce": torch.tensor([3.0])})
        >>> other = Meter()
        >>> other.load(meter.state())
        >>> other.means() == meter.means(), other.steps, other.images
        (True, 1, 2)
        """
        terms = {}
        for name, seen in self._seen.items():
            steps, images = self._by_step(name)
            terms[name] = (torch.tensor(steps), torch.tensor(images), torch.cat([values for _, _, values in seen]))
        return {"steps": self.steps, "images": self.images, "terms": terms}

    def load(self, state: Mapping[str, Any], device: torch.device | str = "cpu") -> None:
        """Go on from a ``state``."""
        self._seen = {}
        for name, (steps, images, values) in state["terms"].items():
            each = zip(steps.tolist(), images.tolist(), values.to(device).split(1), strict=True)
            self._seen[name] = list(each)
        self.steps, self.images = state["steps"], state["images"]


def strange(state: Any) -> str:
    """What is wrong with the ``state`` of a meter that lies in a file; "": nothing.

    >>> strange(Meter().state()), strange({"steps": -1})
    ('', 'its terms are not those of steps')
    """
    why = "its terms are not those of steps"
    if type(state) is not dict or type(state.get("terms")) is not dict:
        return why
    if any(type(state.get(what)) is not int or state[what] < 0 for what in ("steps", "images")):
        return why
    for name, seen in state["terms"].items():
        if type(name) is not str or type(seen) is not tuple or len(seen) != 3:
            return why
        if not all(isinstance(one, Tensor) and one.ndim == 1 and len(one) == len(seen[0]) for one in seen):
            return why
        steps, images, values = seen
        if not len(steps) or steps.dtype != torch.int64 or images.dtype != torch.int64:
            return why
        if not values.is_floating_point() or int(images.min()) < 1:
            return why
    return ""
