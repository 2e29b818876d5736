"""Where the pictures of one part of a data set lie: in memory, in a pack, or as files that are decoded when asked for.

A resident part is a plain (N, C, H, W) uint8 tensor. Everything else is a ``DataSource``, which is asked for pictures
by their positions and gives the same bytes. Subsets are taken from either by ``[positions]``.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdbench.data.errors import DataMissing, shown
from kdbench.utils import sealed
from kdbench.utils.files import atomic_write, expanded
from kdbench.utils.sealing import checksum

#: Pictures that are taken at once where all of them are gone through.
BLOCK = 256
#: Files, at most, that are asked for their lengths where a pack is compared with its folder.
LOOKED_AT = 100_000


class DataSource(ABC):
    """Pictures of one part of a data set, (N, C, H, W) uint8 if they were all in memory.

    A kind of source says its ``shape`` and what ``take`` gives, and ``name``, under which sums of it may be kept.
    It can be sent to another process.

    >>> some: DataSource = Memory(torch.arange(24, dtype=torch.uint8).view(4, 1, 2, 3))
    >>> part = some[torch.tensor([3, 1])]
    >>> len(part), part.shape, part.take(torch.tensor([0]))[0, 0, 0].tolist()
    (2, (2, 1, 2, 3), [18, 19, 20])
    """

    shape: tuple[int, int, int, int]
    #: What its pixels depend on, as a hash; "": nothing is known that would tell when they change.
    name: str = ""

    @abstractmethod
    def take(self, idx: Tensor) -> Tensor:
        """(B,) int64 positions on the CPU -> (B, C, H, W) uint8 there.

        Raises:
            DataMissing: a picture is gone, or not as it was.
        """

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, where: Tensor | slice) -> DataSource:
        """The pictures at these positions (or where a mask is true), in this order."""
        return Part(self, _positions(where, len(self)))

    def blocks(self) -> Iterator[Tensor]:
        """All pictures in order, (B, C, H, W) uint8 at a time."""
        for idx in torch.arange(len(self)).split(BLOCK):
            yield self.take(idx)

    def sha256(self) -> str:
        """SHA-256 as ``kdbench.data.identity`` has it of the resident tensor; goes through all pictures once."""
        return remembered(self.name, self._sha256)

    def _sha256(self) -> str:
        digest = hashlib.sha256(head(self.shape))
        for block in self.blocks():
            digest.update(block.contiguous().numpy().data)
        return digest.hexdigest()


class Memory(DataSource):
    """A resident tensor behind the face of a source, for workers and for augmentation on the host."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        n, c, h, w = images.shape
        self.shape = (n, c, h, w)

    def take(self, idx: Tensor) -> Tensor:
        """See ``DataSource``."""
        return self.images.index_select(0, idx)


class Part(DataSource):
    """Some pictures of another source."""

    def __init__(self, whole: DataSource, positions: Tensor) -> None:
        self.whole, self.positions = whole, positions
        self.shape = (len(positions), *whole.shape[1:])
        if whole.name:
            chosen = hashlib.sha256(positions.numpy().tobytes()).hexdigest()
            self.name = hashlib.sha256(f"{whole.name} {chosen}".encode()).hexdigest()

    def take(self, idx: Tensor) -> Tensor:
        """See ``DataSource``."""
        return self.whole.take(self.positions.index_select(0, idx))

    def __getitem__(self, where: Tensor | slice) -> DataSource:
        """See ``DataSource``."""
        return Part(self.whole, self.positions[_positions(where, len(self))])


class Files(DataSource):
    """Picture files, decoded each time by the rules of ``kdbench.data.pictures``.

    Args:
        files: their paths, in order.
        size: side of the squares in pixels.
    """

    def __init__(self, files: Sequence[str], size: int) -> None:
        # One block of bytes: a list of a million texts is slow to send to workers.
        self._text = b"\0".join(os.fsencode(file) for file in files)
        lengths = np.fromiter((len(os.fsencode(file)) + 1 for file in files), dtype=np.int64, count=len(files))
        self._ends = lengths.cumsum()
        self.size = size
        self.shape = (len(files), 3, size, size)
        facts = _facts(files)
        self.name, self._marks = _stamp(files, facts, size), _marks(facts)
        self._sum = ""

    def path(self, position: int) -> str:
        """Of one file."""
        first = int(self._ends[position - 1]) if position else 0
        return os.fsdecode(self._text[first : int(self._ends[position]) - 1])

    def take(self, idx: Tensor) -> Tensor:
        """See ``DataSource``."""
        from kdbench.data.decode import decode_here

        paths = [self.path(i) for i in idx.tolist()]
        taken = decode_here(paths, self.size)
        changed = _marks(_facts(paths)) != self._marks[idx.numpy()]
        if changed.any():
            raise DataMissing(
                f"the picture {shown(paths[int(changed.argmax())])} has changed since this command began, and a record"
                " names the pictures of then; repeat the command when nobody changes them"
            )
        return taken

    def know(self, sha256: str) -> None:
        """Take over what somebody who saw all pictures has found."""
        self._sum = sha256

    def sha256(self) -> str:
        """See ``DataSource``."""
        return self._sum or super().sha256()


def head(shape: Sequence[int]) -> bytes:
    """What ``identity`` hashes before the values of uint8 images."""
    return f"uint8{tuple(shape)}".encode()


def stamp(files: Sequence[str], size: int) -> str:
    """Hash of paths, lengths and times of files: another one as soon as a file is written again."""
    return _stamp(files, _facts(files), size)


def listing_sha256(files: Sequence[str], home: Path) -> str:
    """Hash of the paths below a folder, and of the lengths of the files where they are not too many to be looked at.

    Unlike ``stamp`` it is the same of a folder that was moved or copied.

    >>> listing_sha256(["/a/train/cat/1.png"], Path("/a")) == listing_sha256(["/b/train/cat/1.png"], Path("/b"))
    True
    """
    lengths = _facts(files)[:, 0].tolist() if len(files) <= LOOKED_AT else [0] * len(files)
    digest = hashlib.sha256()
    for file, length in zip(files, lengths, strict=True):
        below = unicodedata.normalize("NFC", os.path.relpath(file, home))
        digest.update(os.fsencode(below) + f"\0{length}\n".encode())
    return digest.hexdigest()


def _facts(files: Sequence[str]) -> NDArray[np.int64]:
    """(N, 2): length and time of each file; -1 of one that is gone, which who reads it says."""
    found = np.full((len(files), 2), -1, dtype=np.int64)
    for row, file in zip(found, files, strict=True):
        with suppress(OSError):
            about = os.stat(file)
            row[:] = about.st_size, about.st_mtime_ns
    return found


def _marks(facts: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,): one number for length and time of each file, as all of them are sent to workers."""
    return facts[:, 1] * 1_000_003 + facts[:, 0]


def _stamp(files: Sequence[str], facts: NDArray[np.int64], size: int) -> str:
    digest = hashlib.sha256(f"{size}\n".encode())
    for file, (length, when) in zip(files, facts.tolist(), strict=True):
        fact = "gone" if length < 0 else f"{length} {when}"
        digest.update(os.fsencode(file) + f"\0{fact}\n".encode())
    return digest.hexdigest()


def remembered(name: str, make: Callable[[], str]) -> str:
    """A sum that was made before of what has this name, or ``make()``, kept in the user's cache for the next time."""
    if not name:
        return make()
    if found := recalled(name):
        return str(found["sum"])
    made = make()
    remember(name, {"sum": made})
    return made


def recalled(name: str, kind: str = "") -> dict[str, Any]:
    """What was remembered under a name, as it was written; empty where there is nothing, or it was changed."""
    place = _place(name, kind)
    try:
        found = sealed.fields(place)
        sealed.check(place, found)
    except (OSError, ValueError, KeyError):
        return {}
    return found if found.get("name") == name else {}


def remember(name: str, values: Mapping[str, Any], kind: str = "") -> None:
    """Keep it in the user's cache for the next time; where that cannot be written, it is found anew."""
    said = {"name": name, **values}
    with suppress(OSError), atomic_write(_place(name, kind), "w") as opened:
        json.dump(said | {"checksum": checksum(said)}, opened)


def _place(name: str, kind: str) -> Path:
    return cache_folder() / f"{kind}{name[:32]}.json"


def cache_folder() -> Path:
    """Where sums are kept."""
    return expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "kdbench" / "sums"


def _positions(where: Tensor | slice, count: int) -> Tensor:
    if isinstance(where, slice):
        return torch.arange(count)[where]
    return where.nonzero()[:, 0] if where.dtype is torch.bool else where
