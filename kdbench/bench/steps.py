"""Epochs of any length, of full batches: what the engine's loop is timed on."""

from __future__ import annotations

import torch

from kdbench.data import Loader
from kdbench.utils.plan import BatchPlan


class Steps(Loader):
    """``steps`` full batches of a loader at a time, whose images it shares.

    The full batches of all the loader's epochs make one endless row; epoch e of this one is its
    batches e * steps and on. All draws are the loader's own, each epoch's made once.

    Raises:
        ValueError: an epoch of the loader has fewer full batches.
    """

    def __init__(self, loader: Loader, steps: int) -> None:
        self._whole = len(loader.labels) // loader.batch_size
        if not 1 <= steps <= self._whole:
            raise ValueError(f"an epoch has 1 to {self._whole} full batches, not {steps}")
        vars(self).update(vars(loader))  # no second copy of the pixels
        self._loader, self._steps = loader, steps
        self._drawn: tuple[int, str, BatchPlan] | None = None

    def __len__(self) -> int:
        """Batches of an epoch."""
        return self._steps

    def plan(self, epoch: int, stage: str = "train") -> BatchPlan:
        """All draws of one epoch, (steps * B,) each."""
        parts, first, end = [], epoch * self._steps, (epoch + 1) * self._steps
        while first < end:
            number, at = divmod(first, self._whole)
            some = min(end - first, self._whole - at)
            parts.append(self._draw(number, stage).part(at * self.batch_size, (at + some) * self.batch_size))
            first += some
        return parts[0] if len(parts) == 1 else BatchPlan(*(torch.cat(part) for part in zip(*parts, strict=True)))

    def _draw(self, number: int, stage: str) -> BatchPlan:
        if self._drawn is None or self._drawn[:2] != (number, stage):
            self._drawn = number, stage, self._loader.plan(number, stage)
        return self._drawn[2]
