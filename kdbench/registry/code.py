"""Code as one number where it has no file: functions, what of the same module they name, and plain values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType, ModuleType


def of_function(function: object) -> str:
    """sha256 of what a function, or a class, does; the same in every process.

    >>> of_function(len) == of_function(len), len(of_function(of_function))
    (True, 64)
    """
    module = getattr(function, "__module__", "")
    return digest(members(function, module, set()) if isinstance(function, type) else made_of(function, module, set()))


def digest(parts: Iterable[object]) -> str:
    """sha256 of what ``members`` or ``made_of`` tell.

    >>> digest(["beta"]) == digest(iter(["beta"]))
    True
    """
    return hashlib.sha256(repr(list(parts)).encode()).hexdigest()


def members(klass: type, module: str, seen: set[str]) -> Iterator[object]:
    """Functions and plain values of a class; ``seen`` are names of the module that were told before.

    >>> class Two:
    ...     beta = 2.0
    >>> list(members(Two, "__main__", set()))
    [('beta', '2.0')]
    """
    for name, value in sorted(vars(klass).items()):
        if not name.startswith("__") or isinstance(value, FunctionType):
            yield name, *made_of(value, module, seen)


def made_of(value: object, module: str, seen: set[str]) -> Iterator[object]:
    """Of a function, what it is made of and the names that it looks up; else the value, where it is a plain one.

    >>> list(made_of(2.0, "__main__", set()))
    ['2.0']
    """
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
        yield name, *(members(other, module, seen) if isinstance(other, type) else made_of(other, module, seen))


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
