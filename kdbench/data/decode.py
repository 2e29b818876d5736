"""Many picture files -> one tensor, on all cores: what could not be read and what should be said of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import NamedTuple

import numpy as np
import torch
from PIL import ImageFile
from torch import Tensor

from kdbench.data import pictures
from kdbench.data.errors import DataMissing, shown
from kdbench.utils import memory, wording

#: After so many pictures that cannot be used the rest is not looked at.
ENOUGH = 20
#: So many behind a block with such a one are looked at, for their names: more would keep its sentence waiting.
LOOK_ON = 20_000
#: Bytes that a full-size pixel may take on its way: as it lies, turned, with alpha, laid on white.
_BYTES = 16
_LEAST = 2**24  # pixels that may be in hand at any time, however little memory is free
_BLOCK = 32  # pictures that a thread takes at once


class Decoded(NamedTuple):
    """N pictures, in the order asked for."""

    images: Tensor  # (N, 3, size, size) uint8
    digests: list[bytes]  # SHA-256 of each file
    remarks: dict[str, list[int]]  # keys of pictures.REMARKS -> the pictures they hold for


class Room:
    """Lets threads have so many pixels in hand that all fit; a larger picture waits until it is alone."""

    def __init__(self, pixels: int) -> None:
        self.pixels = self._left = pixels
        self._changed = Condition()

    @contextmanager
    def take(self, pixels: int) -> Iterator[None]:
        """Wait for room, and give it back at the end."""
        pixels = min(pixels, self.pixels)
        with self._changed:
            self._changed.wait_for(lambda: self._left >= pixels)
            self._left -= pixels
        try:
            yield
        finally:
            with self._changed:
                self._left += pixels
                self._changed.notify_all()


def decode(files: Sequence[str], size: int, *, keep: bool = True) -> Decoded:
    """Read all files as squares; of the full-size pictures only those in hand are in memory.

    Args:
        files: their paths.
        size: side of the squares in pixels.
        keep: False: no pictures are given back, which are looked at for what is to be said of them.

    Raises:
        DataMissing: some cannot be used: the first, why, and which are the others.
    """
    images = np.empty((len(files) if keep else 0, 3, size, size), dtype=np.uint8)
    digests = [b""] * len(files)
    remarks: dict[int, frozenset[str]] = {}
    failed: dict[int, DataMissing] = {}
    room = Room(max(_LEAST, free_memory() // 4 // _BYTES))

    def block(first: int) -> None:
        for i in range(first, min(first + _BLOCK, len(files))):
            if len(failed) >= ENOUGH:
                return
            try:
                picture = pictures.read(files[i], size, room.take)
            except DataMissing as error:
                failed[i] = error
                continue
            if keep:
                images[i] = picture.pixels.transpose(2, 0, 1)
            digests[i] = picture.digest
            if picture.remarks:
                remarks[i] = picture.remarks

    pictures.formats("")  # Pillow loads its formats here, not in all threads at once
    # Pillow lets go of the interpreter lock while it decodes.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    with _strict(), ThreadPoolExecutor(cores) as pool:
        for _ in pool.map(block, range(0, len(files), _BLOCK)):
            pass
    if failed:
        raise DataMissing(_failures(files, failed))
    held = {key: [i for i in sorted(remarks) if key in remarks[i]] for key in pictures.REMARKS}
    return Decoded(torch.from_numpy(images), digests, {key: where for key, where in held.items() if where})


def decode_block(files: Sequence[str], first: int, many: int, size: int) -> Decoded:
    """Some of the files, from ``first`` on; where one cannot be used, those that follow are looked at as well.

    Raises:
        DataMissing: some cannot be used, as of ``decode``; of the next ``LOOK_ON`` files those are named, too.
    """
    try:
        return decode(files[first : first + many], size)
    except DataMissing:
        decode(files[first : first + many + LOOK_ON], size, keep=False)
        raise


def decode_here(files: Sequence[str], size: int) -> Tensor:
    """A few files as (B, 3, size, size) uint8, in this thread; what there is to say of them was said before.

    Raises:
        DataMissing: one cannot be used.
    """
    images = np.empty((len(files), 3, size, size), dtype=np.uint8)
    with _strict():
        for i, file in enumerate(files):
            images[i] = pictures.read(file, size).pixels.transpose(2, 0, 1)
    return torch.from_numpy(images)


def notes(remarks: Mapping[str, Sequence[int]], files: Sequence[str], home: Path) -> list[str]:
    """A sentence for each remark: how many pictures, the first of them by its path below ``home``."""
    return [
        f"{count(len(where))} {pictures.REMARKS[key]} ({below(files[where[0]], home)}{', ...' if where[1:] else ''})"
        for key, where in remarks.items()
    ]


def below(file: str, home: Path) -> str:
    """A file's path from ``home`` on, as it is written in sentences."""
    return shown(os.path.relpath(file, home))


def count(n: int) -> str:
    """``1 picture``, ``2,000 pictures``."""
    return "1 picture" if n == 1 else f"{n:,} pictures"


def _failures(files: Sequence[str], failed: dict[int, DataMissing]) -> str:
    first, *others = sorted(failed)
    text = str(failed[first])
    if others:
        folder = os.path.dirname(os.path.dirname(files[first]))
        named = ", ".join(below(files[i], Path(folder)) for i in others[:3])
        count = f"{len(others)} more" if len(failed) < ENOUGH else f"{len(others)} more at least"
        text += f"; {count} cannot be used either: {named}{', ...' if len(others) > 3 else ''}"
    return text


@contextmanager
def _strict() -> Iterator[None]:
    """Half a picture is an error, whatever was set before; what Pillow warns of is told in sentences."""
    before = ImageFile.LOAD_TRUNCATED_IMAGES
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = before


def fits(home: Path, count: int, size: int) -> None:
    """Raises: ValueError: it would take more than half of the free memory (the loader needs the other half)."""
    need, free = count * 3 * size * size, free_memory()
    if need > free / 2:
        raise ValueError(
            f"{shown(home)}: {count} pictures of {size} x {size} take {wording.size(need)}, more than half of the "
            f"{wording.size(free)} of free memory; ask for a smaller size with @SIZE, or take --data-source packed"
            " (after `kdbench data pack`) or streamed"
        )


def free_memory() -> int:
    """Bytes that can be had, by machine, container and ``ulimit``; all memory where the system does not tell."""
    found = memory.free()
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if found is None else found
