"""What everybody in the process calls by a name - functions, classes and their methods - and whether it is still that.

A stranger's file that puts another function in the place of ``torch.nn.functional.cross_entropy``, of a layer's
``forward``, of another method's ``terms`` or of one of kdbench's own functions changes the numbers of all others. So
does one that gives a function of kdbench other defaults, or another body.
"""

from __future__ import annotations

import builtins
import hashlib
import json
import math
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from itertools import chain
from operator import attrgetter, is_, methodcaller
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kdbench.engine.fact import Fact
from kdbench.engine.written import numbers

_MODULES: tuple[Any, ...] = (
    *(torch, torch.nn, torch.nn.functional, torch.nn.init, torch.autograd, torch.optim, torch.linalg, torch.fft),
    *(builtins, math, random, time, hashlib, json, os, np, np.random, np.linalg),
)
_CLASSES: tuple[Any, ...] = (Tensor, nn.Module, nn.Parameter, torch.optim.Optimizer, torch.autograd.Function)
#: What pydantic, abc and dataclasses replace in a class of their own accord when it is first used.
_LAZY = ("__pydantic_", "_abc_", "__signature__", "__doc__", "__weakref__", "__annotations__")
_GONE = object()


class _Places(NamedTuple):
    """Where names stand, and whose bodies and defaults are looked at."""

    owners: list[Any]  # modules, classes, and tables of functions or classes
    tables: list[Any]  # of each of them the names and values
    functions: list[FunctionType]
    defaults: list[dict[str, Any]]  # by keyword, of those functions that have such
    named: list[tuple[dict[str, Any], str, Any]]  # of each table among the owners: where it stands, under what name
    written: Callable[[], list[int]] | None  # when tables and defaults were last written to, where that can be read


class _Names(NamedTuple):
    modules: frozenset[str]  # loaded
    places: _Places
    each: list[Any]  # value of all tables, one after the other
    values: list[dict[str, Any]]
    bodies: list[Any]
    positional: list[Any]
    by_keyword: list[dict[str, Any]]
    written: list[int] | None


class _Known(NamedTuple):
    """What was loaded when it was last looked for."""

    names: list[str]
    modules: list[Any]
    table: dict[str, Any]  # in which they stood
    written: Callable[[], list[int]] | None
    when: list[int] | None
    ours: tuple[tuple[str, int], ...]


_known: list[_Known] = []
_last: list[_Names] = []  # the last look
_body, _defaults = attrgetter("__code__"), attrgetter("__defaults__")


def fact() -> Fact:
    """All of it as one fact.

    >>> import torch.nn.functional as F
    >>> names = fact()
    >>> before, relu = names.look(), F.relu
    >>> F.relu = F.gelu
    >>> names.same(before, names.look())
    False
    >>> names.put(before)
    >>> F.relu is relu
    True
    """
    return Fact("what torch, Python or kdbench calls by a name", _look, _put, _same)


@cache
def _fixed() -> list[Any]:
    layers = [one for one in vars(nn).values() if isinstance(one, type) and issubclass(one, nn.Module)]
    optimizers = [one for one in vars(torch.optim).values() if isinstance(one, type)]
    return list({id(one): one for one in (*_MODULES, *_CLASSES, *layers, *optimizers)}.values())


def _places() -> _Places:
    """Looked for anew where modules have come or gone, or where another table stands; else those of the last time."""
    modules = sys.modules
    if not _known or not _as_known(_known[0], modules):
        written = numbers([modules])
        when, names = written and written(), list(modules)
        ours = tuple((name, id(modules[name])) for name in names if name == "kdbench" or name.startswith("kdbench."))
        _known[:] = [_Known(names, [modules[name] for name in names], modules, written, when, ours)]
    key = _known[0].ours
    if any(module.get(name) is not table for module, name, table in _found(key).named):
        _found.cache_clear()  # another table stands there: it is the one whose names count from now on
    return _found(key)


def _as_known(known: _Known, modules: dict[str, Any]) -> bool:
    if known.written is not None and known.table is modules and known.written() == known.when:
        return True
    return list(modules) == known.names and all(map(is_, list(modules.values()), known.modules))


@cache
def _found(loaded: tuple[tuple[str, int], ...]) -> _Places:
    owners, functions = _fixed().copy(), []
    named: list[tuple[dict[str, Any], str, Any]] = []
    for name, _ in loaded:
        module = sys.modules.get(name)
        if not isinstance(module, ModuleType):
            continue
        owners.append(module)
        for key, value in list(vars(module).items()):
            table = isinstance(value, dict) and bool(value) and all(map(callable, value.values()))
            if table:
                named.append((vars(module), key, value))
            if table or (isinstance(value, type) and value.__module__ == name):
                owners.append(value)
    for owner in owners[len(_fixed()) :]:
        functions += [one for value in _values(owner) for one in _functions(value)]
    functions = list({id(one): one for one in functions if str(one.__module__).startswith("kdbench.")}.values())
    tables = [owner if isinstance(owner, dict) else vars(owner) for owner in owners]
    defaults = [one.__kwdefaults__ for one in functions if one.__kwdefaults__]
    return _Places(owners, tables, functions, defaults, named, numbers([*tables, *defaults]))


def _values(owner: Any) -> list[Any]:
    return list((owner if isinstance(owner, dict) else vars(owner)).values())


def _functions(value: Any) -> list[FunctionType]:
    """The function in what a class holds of it, and what it wraps."""
    inner = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
    found: list[FunctionType] = []
    while isinstance(inner, FunctionType) and inner not in found:
        found.append(inner)
        inner = getattr(inner, "__wrapped__", None)
    return found


def _look() -> _Names:
    """Where nothing has changed since the last look it is that one, so that comparing the two costs nothing."""
    places, last = _places(), _last[-1] if _last else None
    known = last is not None and last.places is places
    written = places.written and places.written()
    bodies = list(map(_body, places.functions))
    positional = list(map(_defaults, places.functions))
    if last is not None and known and _the_same(bodies, last.bodies) and _the_same(positional, last.positional):
        unwritten = written is not None and written == last.written
        if unwritten or (_the_same(_each(places), last.each) and _unwritten(last)):
            if len(last.modules) != len(sys.modules):
                last = last._replace(modules=frozenset(sys.modules))
            _last[:] = [last if unwritten else last._replace(written=written)]
            return _last[0]
    values = [table.copy() for table in places.tables]
    by_keyword = [table.copy() for table in places.defaults]
    found = _Names(frozenset(sys.modules), places, _each(places), values, bodies, positional, by_keyword, written)
    _last[:] = [found]
    return found


def _each(places: _Places) -> list[Any]:
    return list(chain.from_iterable(map(methodcaller("values"), places.tables)))


def _the_same(now: list[Any], last: list[Any]) -> bool:
    return len(now) == len(last) and all(map(is_, now, last))


def _unwritten(last: _Names) -> bool:
    """Whether no default by keyword is another one."""
    keywords = zip(last.places.defaults, last.by_keyword, strict=True)
    return all(len(now) == len(old) and all(map(is_, now.values(), old.values())) for now, old in keywords)


def _same(before: _Names, now: _Names) -> bool:
    if before.values is now.values:
        return True
    return not any(True for _ in _replaced(before)) and not any(True for _ in _rewritten(before))


def _replaced(before: _Names) -> Iterator[Callable[[], object]]:
    """How to put back each that was replaced or hidden, but for what torch does when it loads a part of itself."""
    loaded = any(name.partition(".")[0] == "torch" for name in set(sys.modules) - before.modules)
    for owner, table, old in zip(before.places.owners, before.places.tables, before.values, strict=True):
        for name, value in old.items():
            other = table.get(name, _GONE)
            if other is value or not _counts(name, value) or (loaded and _of_torch(other)) or _hooked(value, other):
                continue
            yield partial(owner.__setitem__ if isinstance(owner, dict) else partial(setattr, owner), name, value)
        for name in [name for name in table if name not in old] if len(table) > len(old) else ():
            if _hides(owner, name, table[name]) and not (loaded and _of_torch(table[name])):
                yield partial(delattr, owner, name)


def _hides(owner: Any, name: Any, value: Any) -> bool:
    """Whether a name that was not there stands before another: an inherited one, or one of Python's own."""
    if not _counts(name, value):
        return False
    if isinstance(owner, type):
        special = name.startswith("__") and name.endswith("__")
        return special or any(name in vars(base) for base in owner.__mro__[1:])
    return isinstance(owner, ModuleType) and owner is not builtins and hasattr(builtins, name)


def _counts(name: Any, value: Any) -> bool:
    lazy = isinstance(name, str) and name.startswith(_LAZY)
    return not lazy and (callable(value) or isinstance(value, property | classmethod | staticmethod))


def _rewritten(before: _Names) -> Iterator[Callable[[], object]]:
    """How to put back the body or the defaults of each function that has others now."""
    places = before.places
    for at, one in enumerate(places.functions):
        if one.__code__ is not before.bodies[at]:
            yield partial(setattr, one, "__code__", before.bodies[at])
        if one.__defaults__ is not before.positional[at]:
            yield partial(setattr, one, "__defaults__", before.positional[at])
    for now, old in zip(places.defaults, before.by_keyword, strict=True):
        if len(now) != len(old) or not all(map(is_, now.values(), old.values())):
            yield partial(_refill, now, old)


def _refill(now: dict[str, Any], old: dict[str, Any]) -> None:
    now.clear()
    now.update(old)


def _hooked(value: object, other: object) -> bool:
    """Whether the second is an optimizer's step as torch wraps it when the first of its class is made."""
    return getattr(other, "hooked", False) is True and getattr(other, "__wrapped__", None) is value


def _of_torch(value: object) -> bool:
    return str(getattr(value, "__module__", "")).partition(".")[0] == "torch"


def _put(before: _Names) -> None:
    for put_back in [*_replaced(before), *_rewritten(before)]:
        put_back()
