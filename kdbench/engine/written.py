"""Whether dicts - the names of modules and classes - were written to since they were last looked at.

CPython numbers every change of a dict and keeps the number of the last one in it (PEP 509; up to Python 3.13). To read
those of some hundred dicts costs a tenth of comparing what is in them. Whether this interpreter keeps such numbers is
tried when this file is loaded; where it does not, every dict counts as written to.
"""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType, ModuleType
from typing import Any

#: After the reference count, the type and the length.
_AT = object.__basicsize__ + ctypes.sizeof(ctypes.c_ssize_t)


def _number(table: dict[Any, Any]) -> ctypes.c_uint64:
    """The place of the number in a dict that the caller keeps alive."""
    return ctypes.c_uint64.from_address(id(table) + _AT)


def _dict_of(table: Mapping[Any, Any]) -> dict[Any, Any] | None:
    """What lies behind the view that a class gives of its names."""
    if isinstance(table, dict):
        return table
    behind = gc.get_referents(table) if type(table) is MappingProxyType else []
    return behind[0] if len(behind) == 1 and type(behind[0]) is dict else None


def _changes() -> Iterable[tuple[dict[Any, Any], Callable[[], object]]]:
    """Every way to write to a dict."""
    table: dict[Any, Any] = {"one": 1, "two": 2, "three": 3}
    yield table, lambda: table.__setitem__("one", 1.0)
    yield table, lambda: table.__setitem__("four", 4)
    yield table, lambda: table.__delitem__("one")
    yield table, lambda: table.update(two=[])
    yield table, lambda: table.__ior__({"two": 2})
    yield table, lambda: table.setdefault("five", 5)
    yield table, lambda: table.pop("two")
    yield table, lambda: table.popitem()
    yield table, lambda: table.clear()
    module, owner = ModuleType("tried"), type("Tried", (), {"name": 1})
    names, inside = vars(module), _dict_of(vars(owner))
    yield names, lambda: setattr(module, "name", 1)
    yield names, lambda: exec("name = 2", names)
    yield names, lambda: exec("def write():\n  global name\n  name = 3\nfor _ in range(9): write()\nname = 4", names)
    yield names, lambda: delattr(module, "name")
    assert inside is not None
    yield inside, lambda: setattr(owner, "name", 2)
    yield inside, lambda: setattr(owner, "other", 2)
    yield inside, lambda: delattr(owner, "name")


def _kept() -> bool:
    """Whether the number is there, changes with every change of its dict, and with nothing else."""
    if sys.implementation.name != "cpython":
        return False
    seen = set[int]()
    for table, change in _changes():
        before = _number(table).value
        {"another": 1}.update(one=2)
        _ = [*table.values()], table.get("one"), len(table)
        if _number(table).value != before:
            return False
        change()
        seen |= {before}
        if _number(table).value in seen:
            return False
    return True


KEPT = _kept()


def numbers(tables: Iterable[Mapping[Any, Any]]) -> Callable[[], list[int]] | None:
    """How to read the numbers of the last changes of these: equal ones mean that none was written to.

    None: there are no such numbers, and only a comparison tells.

    >>> names = {"one": 1}
    >>> read = numbers([names]) or (lambda: [len(names)])
    >>> before = read()
    >>> read() == before
    True
    >>> names["two"] = 2
    >>> read() == before
    False
    """
    dicts = [_dict_of(table) for table in tables] if KEPT else [None]
    if any(one is None for one in dicts):
        return None
    places = [_number(one) for one in dicts if one is not None]

    def read(_alive: object = dicts) -> list[int]:
        return [place.value for place in places]

    return read
