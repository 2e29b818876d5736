"""Making a pack: block by block on all cores, each written down once it is on disk, so that a killed one goes on."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from torch import Tensor

from kdbench.data.decode import decode_block
from kdbench.data.errors import DataMissing, shown, why
from kdbench.data.folder import Listed
from kdbench.data.identity import DataIdentity, identify
from kdbench.data.packed import FORMAT, HEADER, PARTS, Packed, header, is_pack, opened
from kdbench.data.pictures import REMARKS
from kdbench.data.sets import Dataset
from kdbench.data.source import head, listing_sha256, stamp
from kdbench.utils import wording
from kdbench.utils.files import atomic_write
from kdbench.utils.sealing import checksum

#: Pictures that are decoded and written at once.
BLOCK = 256
JOURNAL = "journal.jsonl"

Tell = Callable[[int, int], None]


class _Line(NamedTuple):
    """What is known of a block that is on disk."""

    sha256: str
    digests: bytes  # SHA-256 of each picture's file, one after the other; empty for data that are no files
    remarks: dict[str, list[int]]  # places in the block


def pack(dataset: Dataset | Listed, word: str, size: int, folder: Path, tell: Tell = lambda done, of: None) -> Dataset:
    """Make the pack of a data set, or finish it, or mend it; what is whole is kept.

    Args:
        dataset: tensors in memory, or pictures that are not yet read.
        word: what it is called in a suite.
        size: side of the squares in pixels.
        folder: where it lies.
        tell: told how many pictures are done, of how many.

    Raises:
        DataMissing: a picture cannot be used.
        ValueError: another pack lies there, another process makes it, or the disk is too small.

    >>> import tempfile
    >>> from kdbench.data.sets import load
    >>> with tempfile.TemporaryDirectory() as home:
    ...     made = pack(load("digits"), "digits", 8, Path(home))
    >>> made.fingerprint == load("digits").fingerprint
    True
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock").acquire(timeout=0):
            return _Making(dataset, word, size, folder, tell).run()
    except Timeout:
        raise ValueError(f"another kdbench process is packing into {shown(folder)}; wait for it") from None
    except OSError as error:
        raise ValueError(f"the pack {shown(folder)} cannot be written: {why(error)}; what is done is kept") from error


class _Making:
    def __init__(self, dataset: Dataset | Listed, word: str, size: int, folder: Path, tell: Tell) -> None:
        self.dataset, self.word, self.size, self.folder, self.tell = dataset, word, size, folder, tell
        if isinstance(dataset, Listed):
            self.labels = dataset.labels()
            self.name = stamp(dataset.files, size)
        else:
            self.labels = dataset.train_labels, dataset.test_labels
            self.name = dataset.fingerprint
        self.counts = tuple(len(labels) for labels in self.labels)
        self.shape = (3, size, size)
        self.each = int(np.prod(self.shape))

    def run(self) -> Dataset:
        """See ``pack``."""
        known = self._known()
        self._room(known)
        if is_pack(self.folder):
            (self.folder / HEADER).unlink()  # it is none until everything is looked at again
        lines: dict[tuple[str, int], _Line] = {}
        done, total = 0, sum(self.counts)
        with open(self.folder / JOURNAL, "ab") as journal:
            for part, count in zip(PARTS, self.counts, strict=True):
                with self._files(part, count) as files:
                    for first in range(0, count, BLOCK):
                        many = min(BLOCK, count - first)
                        line = known.get((part, first))
                        if line is None or not files.holds(first, many, line.sha256):
                            line = self._make(files, part, first, many, journal)
                        lines[part, first] = line
                        done += many
                        self.tell(done, total)
        for part, labels in zip(PARTS, self.labels, strict=True):
            with atomic_write(self.folder / f"{part}.labels") as file:
                file.write(labels.numpy().astype("<i8").tobytes())
        self._seal(self._notes(lines))
        return opened(self.folder)

    def _known(self) -> dict[tuple[str, int], _Line]:
        """Blocks that the journal says are on disk; a journal of other data is begun anew."""
        begin = {"format": FORMAT, "dataset": self.word, "data": self.name, "size": self.size, "block": BLOCK}
        file, found = self.folder / JOURNAL, {}
        whole = file.read_bytes().splitlines(keepends=True) if file.exists() else []
        try:
            same = bool(whole) and json.loads(whole[0]) == begin
        except ValueError:
            same = False
        if not same:
            self._mine(whole)
            with atomic_write(file) as opened_:
                opened_.write(json.dumps(begin).encode() + b"\n")
            return {}
        good = len(whole[0])
        for line in whole[1:]:
            try:
                one = json.loads(line)
                key = str(one["part"]), int(one["first"])
                found[key] = _Line(one["sha256"], base64.b64decode(one["digests"]), one["remarks"])
            except (ValueError, KeyError, TypeError):
                break  # cut off when the process was killed
            good += len(line)
        os.truncate(file, good)
        return found

    def _mine(self, journal: list[bytes]) -> None:
        """Raises: ValueError: the pack, or the file of its name, that lies there is not of these data."""
        if not is_pack(self.folder):
            return
        try:
            other = header(self.folder)["dataset"]
        except DataMissing:  # cut, or of another kdbench: the journal knows whose it is
            try:
                other = json.loads(journal[0])["dataset"]
            except (IndexError, ValueError, KeyError, TypeError):
                other = "something else"
        if other != self.word:
            raise ValueError(f"{shown(self.folder)} is the pack of {other}; choose another --out, or remove it")

    def _room(self, known: dict[tuple[str, int], _Line]) -> None:
        need = (sum(self.counts) - len(known) * BLOCK) * (self.each + 4)
        free = shutil.disk_usage(self.folder).free
        if need > free:
            raise ValueError(
                f"the pack takes {wording.size(need)} more, and {wording.size(free)} are free in"
                f" {shown(self.folder)}; choose another --out, or a smaller size with @SIZE"
            )

    def _files(self, part: str, count: int) -> _Files:
        return _Files(self.folder / f"{part}.u8", self.folder / f"{part}.crc", count, self.each)

    def _make(self, files: _Files, part: str, first: int, many: int, journal: Any) -> _Line:
        start = first if part == "train" else self.counts[0] + first
        digests, remarks = b"", {}
        if isinstance(self.dataset, Listed):
            found = decode_block(self._paths(), start, many, self.size)
            images, digests, remarks = found.images, b"".join(found.digests), found.remarks
        else:
            whole = self.dataset.train_images if part == "train" else self.dataset.test_images
            assert isinstance(whole, Tensor)
            images = whole[first : first + many]
        line = _Line(files.write(first, images), digests, remarks)
        said = {"part": part, "first": first, **line._asdict(), "digests": base64.b64encode(digests).decode()}
        journal.write(json.dumps(said).encode() + b"\n")
        journal.flush()
        os.fsync(journal.fileno())
        return line

    def _paths(self) -> Sequence[str]:
        if not hasattr(self, "_all"):
            assert isinstance(self.dataset, Listed)
            self._all = self.dataset.files
        return self._all

    def _notes(self, lines: dict[tuple[str, int], _Line]) -> tuple[str, ...]:
        if not isinstance(self.dataset, Listed):
            return self.dataset.notes
        digests: list[bytes] = []
        remarks: dict[str, list[int]] = {}
        for line in lines.values():
            for key, where in line.remarks.items():
                remarks.setdefault(key, []).extend(len(digests) + at for at in where)
            digests += [line.digests[at : at + 32] for at in range(0, len(line.digests), 32)]
        return self.dataset.notes({key: remarks[key] for key in REMARKS if key in remarks}, digests)

    def _seal(self, notes: tuple[str, ...]) -> None:
        parts = [
            Packed(self.folder / f"{part}.u8", (count, *self.shape), "")
            for part, count in zip(PARTS, self.counts, strict=True)
        ]
        (train, test), (train_labels, test_labels) = map(_Whole, parts), self.labels
        names = self.dataset.names if isinstance(self.dataset, Listed) else self.dataset.classes
        identity: DataIdentity = identify(train, train_labels, test, test_labels, names, notes)
        values = {"format": FORMAT, "dataset": self.word, "identity": identity.model_dump(mode="json")}
        if isinstance(self.dataset, Listed):
            values["files"] = listing_sha256(self._paths(), self.dataset.home)
        with atomic_write(self.folder / HEADER, "w") as file:
            json.dump(values | {"checksum": checksum(values)}, file, indent=1)


class _Whole(Packed):
    """A part whose sum is made from its pictures, each held against its own."""

    def __init__(self, part: Packed) -> None:
        super().__init__(part.file, part.shape, "")

    def sha256(self) -> str:
        """Of all pictures."""
        digest = hashlib.sha256(head(self.shape))
        for block in self.blocks():
            digest.update(block.numpy().data)
        return digest.hexdigest()


class _Files:
    """The two files of a part that is being made."""

    def __init__(self, pictures: Path, sums: Path, count: int, each: int) -> None:
        self.count, self.each = count, each
        self._paths = (pictures, sums)
        self._handles: list[int] = []

    def __enter__(self) -> _Files:
        for path, length in zip(self._paths, (self.each * self.count, 4 * self.count), strict=True):
            self._handles.append(os.open(path, os.O_RDWR | os.O_CREAT, 0o666))
            os.truncate(self._handles[-1], length)
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            os.close(handle)

    def holds(self, first: int, many: int, sha256: str) -> bool:
        """Whether a block is on disk as the journal says, its sums, too."""
        pixels = os.pread(self._handles[0], many * self.each, first * self.each)
        sums = os.pread(self._handles[1], many * 4, first * 4)
        return hashlib.sha256(pixels + sums).hexdigest() == sha256

    def write(self, first: int, images: Tensor) -> str:
        """Put a block on disk; the sum of it."""
        array = images.contiguous().numpy()
        sums = np.array([zlib.crc32(one.tobytes()) for one in array], dtype="<u4").tobytes()
        pixels = array.tobytes()
        for handle, data, at in zip(self._handles, (pixels, sums), (first * self.each, first * 4), strict=True):
            _write_all(handle, data, at)
            os.fsync(handle)
        return hashlib.sha256(pixels + sums).hexdigest()


def _write_all(handle: int, data: bytes, at: int) -> None:
    for start in _pieces(len(data)):
        piece = data[start : start + 2**26]
        written = 0
        while written < len(piece):
            written += os.pwrite(handle, piece[written:], at + start + written)


def _pieces(length: int) -> Iterator[int]:
    return iter(range(0, length, 2**26))
