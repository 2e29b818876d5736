"""Packs: a data set as flat files of uint8 pictures, which any number of processes read picture by picture.

A folder holds, of each part, ``train.u8`` (N, 3, H, W), ``train.crc`` (a CRC-32 of each picture) and ``train.labels``
(int64), and a sealed ``pack.json``, which is written last: without it there is no pack. Pictures are read with
``pread``, so a process holds no more of them than a batch, and the system's cache is shared by all.
"""

from __future__ import annotations

import json
import os
import weakref
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdbench.data.errors import DataMissing, shown, why
from kdbench.data.identity import DataIdentity, part_sha256
from kdbench.data.sets import Dataset
from kdbench.data.source import DataSource
from kdbench.utils.sealing import checksum

FORMAT = 1
HEADER = "pack.json"
PARTS = ("train", "test")


class Packed(DataSource):
    """One part of a pack.

    Args:
        file: of its pictures, ``train.u8``.
        shape: (N, C, H, W).
        sha256: of all its pictures, as the sealed header says.
    """

    def __init__(self, file: Path, shape: tuple[int, int, int, int], sha256: str) -> None:
        self.file, self.shape, self.name = file, shape, sha256
        self._each = int(np.prod(shape[1:]))
        self._sums = np.fromfile(file.with_suffix(".crc"), dtype="<u4")
        self._open: tuple[int, int] | None = None  # process, handle

    def take(self, idx: Tensor) -> Tensor:
        """See ``DataSource``."""
        made = np.empty((len(idx), *self.shape[1:]), dtype=np.uint8)
        try:
            handle = self._handle()
            for row, at in zip(made, idx.tolist(), strict=True):
                view = row.data.cast("B")
                if os.preadv(handle, [view], at * self._each) != self._each or zlib.crc32(view) != self._sums[at]:
                    raise DataMissing(
                        f"picture {at} of {shown(self.file)} is not as it was packed; `kdbench data pack` into"
                        f" {shown(self.file.parent)} makes what is damaged anew"
                    )
        except OSError as error:
            raise DataMissing(f"the pack {shown(self.file)} cannot be read: {why(error)}") from error
        return torch.from_numpy(made)

    def sha256(self) -> str:
        """As sealed: every picture is checked whenever it is read."""
        return self.name

    def _handle(self) -> int:
        if self._open is None or self._open[0] != os.getpid():  # a forked process opens its own
            handle = os.open(self.file, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            weakref.finalize(self, os.close, handle)
            self._open = os.getpid(), handle
        return self._open[1]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": None}


def is_pack(folder: Path) -> bool:
    """Whether a finished pack lies there.

    >>> is_pack(Path("nothing"))
    False
    """
    return (folder / HEADER).is_file()


def header(folder: Path) -> dict[str, Any]:
    """What a pack says of itself.

    Raises:
        DataMissing: there is none, or it was edited.
    """
    file = folder / HEADER
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("it is no table")
        whole = found.pop("checksum") == checksum(found) and found["format"] == FORMAT
    except FileNotFoundError:
        raise DataMissing(
            f"there is no pack in {shown(folder)}; `kdbench data pack NAME --out {shown(folder)}` makes it, and goes on"
            " where it was stopped"
        ) from None
    except (OSError, ValueError, KeyError) as error:
        raise DataMissing(f"the pack {shown(folder)} cannot be read: {why(error)}") from error
    if not whole:
        raise DataMissing(f"{shown(file)} was changed after it was written, or is of another kdbench; pack anew")
    return found


def opened(folder: Path) -> Dataset:
    """The data set of a pack.

    Raises:
        DataMissing: there is none, its files are not as long as they were, or its labels not those that were packed.
    """
    found = header(folder)
    identity = DataIdentity.model_validate(found["identity"])
    arrays: list[Any] = []
    for part, count in zip(PARTS, (identity.num_train, identity.num_test), strict=True):
        shape = (count, *identity.image_shape)
        wanted = {".u8": int(np.prod(shape)), ".crc": 4 * count, ".labels": 8 * count}
        for ending, size in wanted.items():
            file = folder / (part + ending)
            here = file.stat().st_size if file.is_file() else -1
            if here != size:
                said = "is not there" if here < 0 else f"has {here:,} bytes, not {size:,}"
                raise DataMissing(f"{shown(file)} of a pack {said}; `kdbench data pack` makes it anew")
        labels = torch.from_numpy(np.fromfile(folder / f"{part}.labels", dtype="<i8").astype(np.int64))
        if part_sha256(labels) != getattr(identity.parts, f"{part}_labels"):
            raise DataMissing(
                f"{shown(folder / part)}.labels of a pack is not as it was packed; `kdbench data pack` makes it anew"
            )
        arrays += [Packed(folder / f"{part}.u8", shape, getattr(identity.parts, f"{part}_images")), labels]
    train, train_labels, test, test_labels = arrays
    return Dataset(found["dataset"], train, train_labels, test, test_labels, identity.classes, identity.notes)
