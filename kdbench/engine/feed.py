"""What the training loop is fed with: the batches of an epoch, and what the teacher says to each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

import torch
from torch import Tensor

from kdbench.distiller import Outputs
from kdbench.engine.errors import holds
from kdbench.engine.graph.train_step import Captured
from kdbench.engine.shared import Shown
from kdbench.engine.teacher_cache.reader import Lesson
from kdbench.utils.wording import count


class Loader(Protocol):
    """What the loop needs of the training data."""

    def __len__(self) -> int: ...

    def epoch(self, epoch: int, *, stage: str = "train") -> Iterator[tuple[Any, ...]]:
        """(image, label, idx) batches; then their target, or None; then what the teacher sees, if not the image.

        The same for the same epoch.
        """


class Feed:
    """Batches of an epoch with what the teacher says to each; captured lanes have been trained on them."""

    def __init__(
        self,
        train: Loader,
        device: torch.device,
        captured: Captured | None,
        stage: str,
        epoch: int,
        show: Callable[[Tensor], Outputs] | None,
        lesson: Lesson | None,
        first: int = 0,
    ) -> None:
        self._train, self._device, self._captured, self._first = train, device, captured, first
        self._stage, self._epoch, self._show, self._lesson = stage, epoch, show, lesson

    def __iter__(self) -> Iterator[Shown]:
        if self._captured is not None:
            with holds(f"a step of {count(len(self._captured.lanes), 'lane')}", self._device):
                yield from self._captured.epoch(self._epoch)
            return
        with holds("a batch of training images", self._device):
            batches = enumerate(self._train.epoch(self._epoch, stage=self._stage))
            for number, batch in islice(batches, self._first, None):
                yield self._shown(number, *batch)

    def again(self, number: int) -> Shown:
        """Batch ``number`` made anew: a lane has changed what it was shown."""
        if self._captured is not None:
            return self._captured.again()
        batches = self._train.epoch(self._epoch, stage=self._stage)
        return self._shown(number, *next(islice(batches, number, None)))

    def _shown(
        self, number: int, image: Tensor, label: Tensor, idx: Tensor, target: Tensor | None = None,
        clean: Tensor | None = None,
    ) -> Shown:  # fmt: skip
        taught = image if clean is None else clean
        with holds("the teacher", self._device):
            if self._lesson is not None:
                return Shown(image, label, idx, self._lesson(number, taught), target)
            return Shown(image, label, idx, None if self._show is None else self._show(taught), target)


def labels_of(train: object) -> list[Tensor]:
    """The labels of the training data, where a loader has them at hand."""
    found = getattr(train, "labels", None)
    return [found] if isinstance(found, Tensor) else []
