"""Batches made on the host, picture by picture: where pictures do not lie on the device, or a policy needs Pillow.

A picture's view follows from seed, stage, epoch and its position alone, so it is the same whoever makes it: this
process, or any number of workers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kdbench.data.augment import Augment, fit, resized_crop, with_policy
from kdbench.data.errors import DataMissing
from kdbench.data.source import DataSource
from kdbench.utils.draws import draw_seed, seed_all, unmoved
from kdbench.utils.plan import BatchPlan

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Ask:
    """One batch that is wanted: what a part of a plan says, (B,) each; plain pictures where there is no key."""

    order: Ints
    row: Ints
    column: Ints
    flip: NDArray[np.bool_]
    key: int | None

    @classmethod
    def of(cls, plan: BatchPlan, key: int | None) -> Ask:
        """For a part of a plan, and the key of its epoch."""
        order, row, column, flip = (part.cpu().numpy() for part in plan)
        return cls(order, row, column, flip, key)


@dataclass(frozen=True)
class Host:
    """Makes batches of one source; plain facts, so that it can be sent to workers."""

    source: DataSource
    size: int  # side of what comes out
    crop_padding: int
    augment: Augment

    @property
    def steps(self) -> int:
        """Places of a crop along a side."""
        return self.source.shape[-1] + 2 * self.crop_padding - self.size + 1

    @property
    def countable(self) -> bool:
        """Whether its views are those of the random crop, each known by row, column and flip."""
        return self.augment.plain and self.source.shape[-1] == self.size

    def make(self, ask: Ask) -> Tensor:
        """(B, C, size, size) uint8 on the CPU."""
        pixels = self.source.take(torch.from_numpy(ask.order))
        if ask.key is None:
            return fit(pixels, self.size)
        if self.augment.plain:
            return self._cropped(pixels, ask)
        made = torch.empty(len(pixels), pixels.shape[1], self.size, self.size, dtype=torch.uint8)
        if self.augment.geometry == "crop":
            pixels = self._cropped(pixels, ask)
        with unmoved():
            for i, (image, at, mirrored) in enumerate(zip(pixels, ask.order, ask.flip, strict=True)):
                seed_all(draw_seed(ask.key, "augment", at))
                if self.augment.geometry == "rrc":
                    image = resized_crop(image, self.size)
                    image = image.flip(-1) if mirrored else image
                made[i] = with_policy(image, self.augment.policy) if self.augment.policy else image
        return made

    def _cropped(self, pixels: Tensor, ask: Ask) -> Tensor:
        padded = F.pad(pixels, (self.crop_padding,) * 4)
        made = torch.empty(len(pixels), pixels.shape[1], self.size, self.size, dtype=torch.uint8)
        places = zip(ask.row.tolist(), ask.column.tolist(), ask.flip.tolist(), strict=True)
        for i, (row, column, mirrored) in enumerate(places):
            cut = padded[i, :, row : row + self.size, column : column + self.size]
            made[i] = cut.flip(-1) if mirrored else cut
        return made


class Feed:
    """A host's batches, made ahead by worker processes that live as long as this; by this process where there are none.

    One row of batches at a time is made by the workers; whoever asks for another meanwhile has it from this process.
    """

    def __init__(self, host: Host, workers: int) -> None:
        self.host, self.workers = host, workers
        self._row: list[Ask] = []
        self._loader: Any = None
        self._busy = False

    def batches(self, asks: Sequence[Ask]) -> Iterator[Tensor]:
        """(B, C, size, size) uint8 on the CPU, one for each."""
        if not self.workers or self._busy or len(asks) < 2:
            yield from map(self.host.make, asks)
            return
        self._busy = True
        try:
            if self._loader is None:
                self._loader = self._start()
            self._row[:] = asks
            for made in self._loader:
                if isinstance(made, str):
                    raise DataMissing(made)
                yield made
        finally:
            self._busy = False

    def _start(self) -> Any:
        from multiprocessing import get_context

        from torch.utils.data import DataLoader

        # A server that holds no threads and no CUDA is forked, not this process.
        context = get_context("forkserver")
        context.set_forkserver_preload(["kdbench.data.host"])
        return DataLoader(
            _Asked(self.host),
            batch_size=None,
            sampler=self._row,  # read anew at the beginning of every row
            num_workers=self.workers,
            persistent_workers=True,
            multiprocessing_context=context,
            generator=torch.Generator(),  # the draw of its seeds moves nobody's random numbers
        )

    def close(self) -> None:
        """Let the workers end."""
        if self._loader is not None:
            with suppress(AttributeError):
                self._loader._iterator._shutdown_workers()
            self._loader = None


class _Asked(torch.utils.data.Dataset[Any]):
    """What torch's workers ask."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def __getitem__(self, ask: Ask) -> Tensor | str:
        try:
            return self._host.make(ask)
        except DataMissing as error:  # raised here, torch would wrap the sentence into a trace
            return str(error)
