"""Which pictures a class folder has, in an order that no machine changes, and what is left out of it."""

from __future__ import annotations

import os
import stat
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from kdbench.data.errors import DataMissing, shown, why
from kdbench.data.pictures import ENDINGS

#: What programs leave beside pictures, in lower case; whatever begins with a dot is hidden, too.
HIDDEN = frozenset(
    {"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "@eadir", "$recycle.bin", "__pycache__"}
)


class Found(NamedTuple):
    """What lies in one class folder."""

    folder: str
    pictures: list[str]  # paths, in order
    others: int  # files that are left out, hidden ones not counted


class Aside:
    """What is left out, by kind: how often, and the first of it.

    >>> aside = Aside(Path("pets"))
    >>> aside.add(".txt", "pets/cat/notes.txt")
    >>> aside.sentence()
    'left out: 1 file ending in .txt (cat/notes.txt)'
    """

    def __init__(self, home: Path) -> None:
        self.home = home
        self._kinds: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, path: str) -> None:
        """``kind`` is the ending of a file, or one of the words of ``_KINDS``."""
        self._kinds[kind].append(path)

    def sentence(self) -> str | None:
        """One sentence about everything; None where nothing was left out."""
        if not self._kinds:
            return None
        endings = sorted((kind for kind in self._kinds if kind not in _KINDS), key=lambda k: (-len(self._kinds[k]), k))
        parts = [self._part(kind, f"ending in {shown(kind)}" if kind else "without an ending") for kind in endings[:5]]
        if rest := endings[5:]:
            parts.append(f"{sum(len(self._kinds[kind]) for kind in rest)} files of {len(rest)} other endings")
        parts += [self._part(kind, words) for kind, words in _KINDS.items() if kind in self._kinds]
        return f"left out: {', '.join(parts)}"

    def _part(self, kind: str, words: str) -> str:
        paths = self._kinds[kind]
        what = "" if kind in _KINDS and kind != "loose" else "file " if len(paths) == 1 else "files "
        first = shown(os.path.relpath(paths[0], self.home))
        return f"{len(paths):,} {what}{words} ({first}{', ...' if len(paths) > 1 else ''})"


_KINDS = {
    "loose": "outside the class folders",
    "unnamed": "not named in val_annotations.txt",
    "hidden": "hidden",
    "loop": "linking back to a folder around it",
    "empty": "empty as a class folder",
}


def classes(folder: Path, aside: Aside) -> dict[str, Found]:
    """Name of each class folder in ``folder`` -> what lies in it, sorted by name.

    Names are in Unicode's composed form, so that a folder copied from a Mac is the same class; the order is that of
    their code points, whatever the locale.

    Raises:
        DataMissing: a folder cannot be listed, names that will not do, a picture that is no file.

    >>> for name in ("pets/dog", "pets/cat"):
    ...     Path(name).mkdir(parents=True)
    ...     Path(name, "1.png").touch()
    >>> list(classes(Path("pets"), Aside(Path("pets"))))
    ['cat', 'dog']
    """
    found: dict[str, Found] = {}
    around = frozenset({_number(folder)})
    for entry, kind in _entries(str(folder), aside):
        if kind == "file":
            aside.add("loose", entry.path)
        elif kind != "folder":
            raise DataMissing(f"{shown(entry.path)} {_ODD[kind]}; a class is a folder of pictures")
        elif _number(entry.path) in around:
            aside.add("loop", entry.path)
        else:
            name = unicodedata.normalize("NFC", entry.name)
            if not name.isprintable():
                raise DataMissing(
                    f"the class folder {shown(entry.path)} has line breaks, control signs or no UTF-8 in its name;"
                    " rename it"
                )
            if name in found:
                raise DataMissing(f"{shown(folder)} has two folders named {name} that differ in their Unicode only")
            pictures, others = _walk(entry.path, around | {_number(entry.path)}, aside)
            found[name] = Found(entry.path, pictures, others)
    return found


def pictures(folder: Path, aside: Aside) -> list[str]:
    """Every picture in a folder and its sub-folders: files first, then folder by folder, each sorted by name.

    Raises:
        DataMissing: see ``classes``.
    """
    return _walk(str(folder), frozenset({_number(folder)}), aside)[0]


def _walk(folder: str, around: frozenset[tuple[int, int]], aside: Aside) -> tuple[list[str], int]:
    files, deeper, others = [], [], 0
    for entry, kind in _entries(folder, aside):
        ending = os.path.splitext(entry.name)[1].lower()
        if kind == "folder" and ending not in ENDINGS:
            here = _number(entry.path)
            if here in around:
                aside.add("loop", entry.path)
            else:
                deeper.append((entry.path, around | {here}))
        elif kind == "file" and ending in ENDINGS:
            files.append(entry.path)
        elif ending in ENDINGS:
            raise DataMissing(f"the picture {shown(entry.path)} cannot be read: it {_ODD[kind]}")
        else:
            aside.add(ending, entry.path)
            others += 1
    for path, chain in deeper:
        below, more = _walk(path, chain, aside)
        files += below
        others += more
    return files, others


_ODD = {
    "folder": "is a folder, whose name ends as a picture's",
    "broken": "is a link to something that is not there",
    "odd": "is no regular file",
}


def _entries(folder: str, aside: Aside) -> Iterator[tuple[os.DirEntry[str], str]]:
    """What lies in a folder, sorted, with its kind: file, folder, broken (a link) or odd (a pipe, a device)."""
    try:
        with os.scandir(folder) as listed:
            entries = sorted(listed, key=lambda entry: (unicodedata.normalize("NFC", entry.name), entry.name))
    except OSError as error:
        raise DataMissing(f"the folder {shown(folder)} cannot be listed: {why(error)}") from error
    for entry in entries:
        if entry.name.startswith(".") or entry.name.lower() in HIDDEN:
            aside.add("hidden", entry.path)
            continue
        try:
            mode = entry.stat().st_mode if entry.is_symlink() else None
        except OSError:
            yield entry, "broken"
            continue
        if stat.S_ISDIR(mode) if mode is not None else entry.is_dir(follow_symlinks=False):
            yield entry, "folder"
        elif stat.S_ISREG(mode) if mode is not None else entry.is_file(follow_symlinks=False):
            yield entry, "file"
        else:
            yield entry, "odd"


def _number(folder: str | Path) -> tuple[int, int]:
    """What a folder is called by the file system, whatever path leads to it."""
    about = os.stat(folder)
    return about.st_dev, about.st_ino
