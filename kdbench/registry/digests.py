"""What code a method is made of, as one number: of its file as it was imported, or of the class where there is none."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path

from kdbench.distiller import Distiller
from kdbench.registry.code import digest, members

_imported: dict[str, str] = {}  # file -> sha256 of it as it was imported


def imported(file: str, text: bytes) -> None:
    """Note what a file held when it was run.

    >>> imported("nowhere.py", b"")
    >>> known("nowhere.py")[:8]
    'e3b0c442'
    """
    _imported[file] = hashlib.sha256(text).hexdigest()


def known(file: str) -> str:
    """sha256 of a file as it was imported; empty where it was not.

    >>> known("elsewhere.py")
    ''
    """
    return _imported.get(file, "")


def registered(cls: type[Distiller]) -> None:
    """Note the file of a class that has just been defined, or defined anew by a reload, as it is at its import.

    >>> registered(Distiller)
    """
    file = _file(cls)
    if file is not None:
        imported(str(file), file.read_bytes())


def of(cls: type[Distiller]) -> str:
    """sha256 of what a class was made from: its file as it was imported, else its functions as they are.

    >>> len(of(Distiller))
    64
    """
    file = _file(cls)
    if file is None:
        return digest(_parts(cls))
    if not known(str(file)):
        imported(str(file), file.read_bytes())
    return known(str(file))


def _file(cls: type[Distiller]) -> Path | None:
    if cls.__module__ == "__main__":  # of which a notebook runs piece after piece
        return None
    name = getattr(sys.modules.get(cls.__module__), "__file__", None)
    file = Path(name) if name else None
    return file if file is not None and file.is_file() else None


def _parts(cls: type[Distiller]) -> Iterator[object]:
    """What a class without a file does: its functions, what of the same module they name, and plain values."""
    seen: set[str] = set()
    for klass in cls.__mro__[: cls.__mro__.index(Distiller)]:
        yield klass.__name__, *members(klass, cls.__module__, seen)
