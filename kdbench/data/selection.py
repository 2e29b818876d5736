"""Which source a run's pictures come from: ``auto``, ``resident``, ``packed`` (or ``packed:FOLDER``), ``streamed``.

The data set is the same whichever it is, and so are its fingerprint and every batch.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from kdbench.data import names, sets
from kdbench.data.decode import decode_block, free_memory
from kdbench.data.errors import DataMissing, shown
from kdbench.data.folder import Listed, list_folder
from kdbench.data.packed import header, is_pack, opened
from kdbench.data.sets import Dataset
from kdbench.data.source import Files, Memory, head, listing_sha256, recalled, remember
from kdbench.utils import wording
from kdbench.utils.files import expanded

SOURCES = ("auto", "resident", "packed", "streamed")
#: ``auto`` keeps pictures in memory where they take no more than this share of what is free; the loader's padded copy
#: takes as much again.
SHARE = 0.5
#: Pictures of one block while all are looked at.
BLOCK = 512
Say = Callable[[str], None]


def check(source: str) -> None:
    """Raises: ValueError: no such source.

    >>> check("disk")
    Traceback (most recent call last):
    ValueError: --data-source takes auto, resident, packed, packed:FOLDER or streamed, not 'disk'
    """
    if source not in SOURCES and not (source.startswith("packed:") and source[7:].strip()):
        raise ValueError(f"--data-source takes auto, resident, packed, packed:FOLDER or streamed, not {source!r}")


def usual_workers() -> int:
    """Processes that decode pictures unless told: one less than there are cores, at most 8.

    >>> 1 <= usual_workers() <= 8
    True
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(8, cores - 1))


def pack_folder(word: str, root: Path | None) -> Path:
    """Where the pack of a data set lies unless told.

    >>> pack_folder("cifar100", Path("/data")).as_posix()
    '/data/packed/cifar100'
    """
    return (root or sets.default_root()) / "packed" / names.safe_name(names.canonical(word))


def listed(word: str, root: Path | None) -> tuple[Listed, int] | None:
    """The pictures of a data set that is a folder of files, and the side they are cut to; None: it is none.

    Raises:
        DataMissing: the files are not there.

    >>> listed("digits", None) is None
    True
    """
    if found := names.image_folder(word):
        return list_folder(found.path), found.size
    if named := names.sized(word):
        from kdbench.data.layouts import LISTS

        return LISTS[named[0]](expanded(root) if root is not None else sets.default_root()), named[1]
    return None


def choose(
    word: str,
    root: Path | None = None,
    *,
    source: str = "auto",
    workers: int | None = None,
    download: bool = True,
    say: Say = lambda sentence: None,
) -> Dataset:
    """The data set of a word from the source asked for.

    Args:
        word: as ``sets.load`` takes it.
        root: folder of the data sets.
        source: one of ``SOURCES``, or ``packed:FOLDER``.
        workers: processes that make batches on the host; None: as many as are usual for the source.
        download: see ``sets.load``.
        say: told in a sentence what ``auto`` has chosen, where it is not memory.

    Raises:
        DataMissing: the files, or the pack, are not there.
        ValueError: no such data set or source, it does not fit into memory, or the pack is not of these pictures.

    >>> resident, streamed = choose("digits"), choose("digits", source="streamed", workers=0)
    >>> resident.fingerprint == streamed.fingerprint
    True
    """
    check(source)
    if source == "auto":
        source = _auto(word, root, say)
    if source == "resident":
        return replace(sets.load(word, root, download=download), workers=workers or 0)
    if source.startswith("packed"):
        folder = expanded(source.partition(":")[2]) if ":" in source else pack_folder(word, root)
        found = opened(folder)
        if _base(found.name) != _base(names.canonical(word)):
            raise ValueError(
                f"{shown(folder)} is the pack of {found.name}, not of {word}; name another with packed:FOLDER"
            )
        _compare(found, folder, word, root, say)
        return replace(found, name=names.canonical(word), workers=workers or 0)
    files = listed(word, root)
    many = usual_workers() if workers is None else workers
    if files is None:
        whole = sets.load(word, root, download=download)
        assert isinstance(whole.train_images, Tensor)
        assert isinstance(whole.test_images, Tensor)
        return replace(
            whole, train_images=Memory(whole.train_images), test_images=Memory(whole.test_images), workers=many
        )
    return _streamed(names.canonical(word), *files, many, say)


def _auto(word: str, root: Path | None, say: Say) -> str:
    """Memory where it holds the pictures; else a pack where there is one; else files."""
    files = listed(word, root)
    if files is None:
        return "resident"
    pictures, size = files
    need = len(pictures.files) * 3 * size * size
    room = free_memory() * SHARE
    if torch.cuda.is_available():
        room = min(room, torch.cuda.mem_get_info()[1] * SHARE / 2)
    if need <= room:
        return "resident"
    packed = is_pack(pack_folder(word, root))
    why = f"the pictures take {wording.size(need)}, and {wording.size(room)} of memory may be theirs"
    way = "they are read from their pack" if packed else "they are decoded whenever they are needed"
    more = "" if packed else f"; `kdbench data pack {word}` makes a pack, which is faster"
    say(f"{why}: {way}{more}")
    return "packed" if packed else "streamed"


def _base(word: str) -> str:
    """What must agree between a pack and a suite: the data set and its size; a folder may have moved."""
    found = names.image_folder(word)
    return f"imagefolder@{found.size}" if found else word


def _compare(found: Dataset, folder: Path, word: str, root: Path | None, say: Say) -> None:
    """Hold a pack against the pictures that it was made of, where they are here.

    Raises:
        ValueError: they are others, or not as they were.
    """
    try:
        here = listed(word, root)
    except DataMissing as error:
        say(f"the pack of {found.name} is not compared with its pictures: {error}")
        return
    if here is None:
        return
    pictures, _ = here
    counts = len(pictures.train), len(pictures.test)
    if found.classes != pictures.names:
        why = "the classes are others"
    elif counts != (len(found.train_images), len(found.test_images)):
        why = f"there are {counts[0]:,} and {counts[1]:,}"
    elif header(folder).get("files") not in (None, listing_sha256(pictures.files, pictures.home)):
        why = "some have another name or length"  # None: packed before packs knew
    else:
        return
    raise ValueError(
        f"{shown(folder)} is not the pack of the pictures in {shown(pictures.home)} as they are now ({why});"
        f" `kdbench data pack {word}` makes it anew, packed:FOLDER names another, streamed takes the files"
    )


def _streamed(word: str, pictures: Listed, size: int, workers: int, say: Say) -> Dataset:
    train_labels, test_labels = pictures.labels()
    files, n = pictures.files, len(pictures.train)
    train, test = Files(files[:n], size), Files(files[n:], size)
    notes = _surveyed(pictures, size, train, test, say)
    return Dataset(word, train, train_labels, test, test_labels, pictures.names, notes, workers=workers)


def _surveyed(pictures: Listed, size: int, train: Files, test: Files, say: Say) -> tuple[str, ...]:
    """Look at every picture once: sums of both parts are remembered, and what is to be said is given back."""
    key = sha256(f"{train.name} {test.name}".encode()).hexdigest()
    if found := recalled(key, "survey-"):
        train.know(found["train"])
        test.know(found["test"])
        return tuple(found["notes"])
    paths, n = pictures.files, len(train)
    say(f"looking once at {len(paths):,} pictures, for their fingerprint; it is remembered until a file changes")
    sums = {"train": sha256(head(train.shape)), "test": sha256(head(test.shape))}
    digests: list[bytes] = []
    remarks: dict[str, list[int]] = {}
    for part, first, end in (("train", 0, n), ("test", n, len(paths))):
        for start in range(first, end, BLOCK):
            made = decode_block(paths, start, min(BLOCK, end - start), size)
            sums[part].update(made.images.numpy().data)
            for mark, where in made.remarks.items():
                remarks.setdefault(mark, []).extend(len(digests) + at for at in where)
            digests += made.digests
    from kdbench.data.pictures import REMARKS

    notes = pictures.notes({mark: remarks[mark] for mark in REMARKS if mark in remarks}, digests)
    known = {part: one.hexdigest() for part, one in sums.items()}
    train.know(known["train"])
    test.know(known["test"])
    remember(key, {**known, "notes": notes}, "survey-")
    return notes


__all__ = ["SOURCES", "DataMissing", "check", "choose", "listed", "pack_folder", "usual_workers"]
