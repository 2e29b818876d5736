"""What code a method is made of, as one number: of its file as it was imported, or of the class where there is none."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType

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
    if cls.__module__ == "__main__":  # of which a notebook runs piece after piece
        return None
    name = getattr(sys.modules.get(cls.__module__), "__file__", None)
    file = Path(name) if name else None
    return file if file is not None and file.is_file() else None


def _parts(cls: type[Distiller]) -> Iterator[object]:
    """What a class without a file does: its functions, what of the same module they name, and plain values."""
    seen: set[str] = set()
    for klass in cls.__mro__[: cls.__mro__.index(Distiller)]:
        yield klass.__name__, *_members(klass, cls.__module__, seen)


def _members(klass: type, module: str, seen: set[str]) -> Iterator[object]:
    for name, value in sorted(vars(klass).items()):
        if not name.startswith("__") or isinstance(value, FunctionType):
            yield name, *_value(value, module, seen)


def _value(value: object, module: str, seen: set[str]) -> Iterator[object]:
    """Of a function, what it is made of and the names that it looks up; else the value, where it is a plain one."""
    for wrapped in ("__func__", "fget", "__wrapped__"):
        value = getattr(value, wrapped, value)
    if not isinstance(value, FunctionType):
        yield _plain(value)
        return
    yield from _code(value.__code__)
    yield _plain(value.__defaults__), _plain(value.__kwdefaults__)
    for name in sorted(_names(value.__code__) - seen):
        other = value.__globals__.get(name)
        if getattr(other, "__module__", module) != module or isinstance(other, ModuleType):
            continue
        seen.add(name)
        yield name, *(_members(other, module, seen) if isinstance(other, type) else _value(other, module, seen))


def _plain(value: object) -> str:
    """The same in every process: no addresses, and sets in order."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_plain, value))}]"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_plain, value)))}}}"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_plain(key)}: {_plain(one)}' for key, one in value.items())}}}"
    return repr(value) if isinstance(value, bool | int | float | complex | str | bytes | None) else type(value).__name__


def _code(code: CodeType) -> Iterator[object]:
    yield code.co_code, code.co_names, code.co_varnames
    for one in code.co_consts:
        if isinstance(one, CodeType):
            yield from _code(one)
        else:
            yield _plain(one)


def _names(code: CodeType) -> set[str]:
    return {*code.co_names}.union(*(_names(one) for one in code.co_consts if isinstance(one, CodeType)))
