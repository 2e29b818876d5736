"""Rows of numbers in a file that may be killed, torn or filled up at any moment.

Each row has a checksum in a second file, written after it; 0 says that there is no row yet. A row
counts only where its checksum is right, so the order in which the disk got the two does not matter.
Files are sparse: they take the space of what was written. Writing goes by ``pwrite``, so that a full
disk is an error and not a signal; reading by memory map.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Rows whose checksums are written at once.
BLOCK = 4096


class Rows:
    """``count`` rows of the width and dtype of ``like``, (any, D). Several processes may read, one may write.

    Raises:
        OSError, ValueError: the files are not there, or of another size.
    """

    def __init__(self, folder: Path, name: str, count: int, like: Tensor) -> None:
        self._dtype, self._bytes = like.dtype, like.shape[1] * like.element_size()
        paths = _paths(folder, name)
        for path, size in zip(paths, (count * self._bytes, count * 4), strict=True):
            if path.stat().st_size != size:
                raise ValueError(f"{path.name} has {path.stat().st_size} bytes, not {size}")
        self._data: NDArray[np.uint8] = np.memmap(paths[0], np.uint8, "r", shape=(count, self._bytes))
        self._sums: NDArray[np.uint32] = np.memmap(paths[1], np.uint32, "r", shape=(count,))
        self._paths = paths
        self._files: list[int] = []

    @staticmethod
    def make(folder: Path, name: str, count: int, like: Tensor) -> None:
        """Create the two files, empty."""
        folder.mkdir(parents=True, exist_ok=True)
        for path, width in zip(_paths(folder, name), (like.shape[1] * like.element_size(), 4), strict=True):
            with open(path, "wb") as file:
                file.truncate(count * width)

    @staticmethod
    def header_of(like: Tensor) -> dict[str, Any]:
        """Width and dtype, in JSON."""
        return {"width": like.shape[1], "dtype": str(like.dtype).removeprefix("torch.")}

    def has(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the rows were written; whether they are whole shows when they are read."""
        return np.asarray(self._sums[rows] != 0)

    def filled(self) -> NDArray[np.int64]:
        """All rows that were written."""
        return np.flatnonzero(self._sums)

    def read(self, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """(B, D) values, and (B,) whether the row is there and whole."""
        values = self._data[rows]
        sums = self._sums[rows]
        good = [_sum(value, row) == kept for value, row, kept in zip(values, rows.tolist(), sums.tolist(), strict=True)]
        # A clone lies where torch puts its tensors; kernels may depend on the alignment.
        return torch.from_numpy(np.asarray(values)).view(self._dtype).clone(), torch.tensor(good, dtype=torch.bool)

    def write(self, rows: NDArray[np.int64], values: Tensor) -> None:
        """Keep (B, D) values.

        Raises:
            OSError: the disk is full.
        """
        assert values.dtype == self._dtype
        if not self._files:
            self._files = [os.open(path, os.O_RDWR) for path in self._paths]
        data, sums = self._files
        raw = values.contiguous().view(torch.uint8).numpy()
        checks = np.array([_sum(value, row) for row, value in zip(rows.tolist(), raw, strict=True)], np.uint32)
        if not len(rows):
            return
        starts = np.flatnonzero(np.diff(rows, prepend=-2) != 1)  # neighbours are written at once
        for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
            _put(data, raw[start:end].data, int(rows[start]) * self._bytes)
        # Sums of rows that lie near each other are written with those between, as they are: nobody else writes.
        blocks = np.flatnonzero(np.diff(rows // BLOCK, prepend=-1) != 0)
        for start, end in zip(blocks, [*blocks[1:], len(rows)], strict=True):
            near = rows[start:end]
            first, last = int(near.min()), int(near.max())
            kept = np.array(self._sums[first : last + 1])
            kept[near - first] = checks[start:end]
            _put(sums, kept.data, first * 4)

    def close(self) -> None:
        """Close what writing opened; reading ends with the last reference."""
        for file in self._files:
            os.close(file)
        self._files = []


def _paths(folder: Path, name: str) -> tuple[Path, Path]:
    return folder / f"{name}.rows", folder / f"{name}.sums"


def _sum(value: NDArray[np.uint8], row: int) -> int:
    """CRC-32 of a row and its number, so that a row in another's place is none; never 0."""
    return zlib.crc32(value.tobytes(), zlib.crc32(row.to_bytes(8, "little"))) or 1


def _put(file: int, data: memoryview, at: int) -> None:
    left, done = data.cast("B"), 0
    while done < len(left):
        done += os.pwrite(file, left[done:], at + done)
