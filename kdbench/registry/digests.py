"""What code a method is made of, as one number: of its file as it was imported, or of the class where there is none."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType

from kdbench.distiller import Distiller

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
        return hashlib.sha256(repr(list(_parts(cls))).encode()).hexdigest()
    if not known(str(file)):
        imported(str(file), file.read_bytes())
    return known(str(file))


def _file(cls: type[Distiller]) -> Path | None:
    name = getattr(sys.modules.get(cls.__module__), "__file__", None)
    file = Path(name) if name else None
    return file if file is not None and file.is_file() else None


def _parts(cls: type[Distiller]) -> Iterator[object]:
    """What a class without a file does: its functions, those of the same module that they name, and plain values."""
    seen: set[str] = set()
    for klass in cls.__mro__[: cls.__mro__.index(Distiller)] if cls is not Distiller else ():
        for name, value in sorted(vars(klass).items()):
            if name not in (
                "__module__",
                "__dict__",
                "__weakref__",
                "__doc__",
                "__firstlineno__",
                "__static_attributes__",
            ):
                yield klass.__name__, name, *_value(getattr(value, "__func__", value), cls.__module__, seen)


def _value(value: object, module: str, seen: set[str]) -> Iterator[object]:
    value = getattr(value, "fget", value)
    if isinstance(value, FunctionType):
        yield from _code(value.__code__)
        yield repr(value.__defaults__), repr(value.__kwdefaults__)
        for name in sorted(_names(value.__code__)):
            other = value.__globals__.get(name)
            ours = isinstance(other, FunctionType | type) and other.__module__ == module
            if name not in seen and (ours or isinstance(other, bool | int | float | str | tuple)):
                seen.add(name)
                yield name
                members = sorted(vars(other).items()) if isinstance(other, type) else [(name, other)]
                for key, member in members:
                    if isinstance(member, FunctionType | bool | int | float | str | tuple) and key != "__module__":
                        yield key, *_value(member, module, seen)
    elif isinstance(value, bool | int | float | str | tuple):
        yield repr(value)


def _code(code: CodeType) -> Iterator[object]:
    yield code.co_code, code.co_names, code.co_varnames
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _code(one)
        else:
            yield repr(one)


def _names(code: CodeType) -> set[str]:
    return {*code.co_names}.union(*(_names(one) for one in code.co_consts if isinstance(one, CodeType)))
