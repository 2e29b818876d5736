"""What is called by a name is compared by identity, and as well where the numbers of changes are not kept."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from types import MappingProxyType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from kdbench import distiller, registry
from kdbench.engine import called, evaluate, written
from kdbench.methods.kd import KD

pytestmark = pytest.mark.core

FACT = called.fact()


class Liar:
    """Is everything, if it is asked."""

    def __eq__(self, other: object) -> bool:
        return True

    def __call__(self, *_: Any, **__: Any) -> Any:
        return None

    __hash__ = None  # type: ignore[assignment]


def other(*_: Any, **__: Any) -> Any:
    """Another function."""


def _replaced(owner: Any, name: str, value: Any) -> Callable[[], None]:
    return lambda: setattr(owner, name, value)


def _default_by_keyword() -> None:
    defaults = called._places().defaults[0]
    defaults[next(iter(defaults))] = object()


def _positional_default() -> None:
    called._places().functions[5].__defaults__ = (object(),)


def _table() -> dict[str, Any]:
    table: dict[str, Any] = called._places().named[0][2]
    return table


CHANGES: dict[str, Callable[[], None]] = {
    "a function of torch": _replaced(F, "relu", F.gelu),
    "a function of torch by a liar": _replaced(F, "relu", Liar()),
    "a function of Python": _replaced(math, "sqrt", math.exp),
    "a layer's method": _replaced(nn.Conv2d, "forward", other),
    "a method's loss": _replaced(KD, "loss", other),
    "a method's terms, which it inherits": _replaced(KD, "terms", other),
    "a function of kdbench": _replaced(evaluate, "answer", other),
    "a class of kdbench": _replaced(distiller, "Distiller", Liar()),
    "a name before Python's own": _replaced(distiller, "len", other),
    "a body": _replaced(distiller.kl, "__code__", other.__code__),
    "a default": _positional_default,
    "a default by keyword": _default_by_keyword,
    "an entry of a table": lambda: _table().update({next(iter(_table())): other}),
}


@pytest.fixture(params=[True, False], ids=["numbers", "none"])
def looked(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A look before, by either way."""
    registry.names()
    monkeypatch.setattr(written, "KEPT", request.param and written.KEPT)
    called._known.clear()
    called._last.clear()
    called._found.cache_clear()
    before = FACT.look()
    assert (before.written is not None) == (request.param and sys.version_info < (3, 14))
    yield before
    FACT.put(before)
    monkeypatch.undo()
    called._known.clear()
    called._last.clear()
    called._found.cache_clear()


@pytest.mark.parametrize("kind", CHANGES)
def test_what_is_another_is_seen_and_put_back(kind: str, looked: Any) -> None:
    assert FACT.same(looked, FACT.look())
    CHANGES[kind]()
    assert not FACT.same(looked, FACT.look())
    FACT.put(looked)
    assert FACT.same(looked, FACT.look())
    assert FACT.look().values is not None


def test_a_change_that_was_taken_back_is_none(looked: Any) -> None:
    relu = F.relu
    F.relu = F.gelu  # type: ignore[assignment]
    F.relu = relu
    assert FACT.look().values is looked.values


def test_a_module_that_comes_is_looked_at(looked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("kdbench.of_the_test")
    module.work = other  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kdbench.of_the_test", module)
    before = FACT.look()
    assert before.places is not looked.places
    module.work = torch.relu  # type: ignore[attr-defined]
    assert not FACT.same(before, FACT.look())


# -- the numbers ------------------------------------------------------------------------------------


def test_this_python_keeps_numbers() -> None:
    assert written.KEPT or sys.implementation.name != "cpython" or sys.version_info >= (3, 14)


@pytest.mark.skipif(not written.KEPT, reason="this Python keeps no numbers")
def test_every_way_to_write_changes_the_number() -> None:
    for table, change in written._changes():
        read = written.numbers([{}, table])
        assert read is not None
        before = read()
        assert read() == before
        change()
        after = read()
        assert (before[0], before[1]) != (after[0], after[1])
        assert before[0] == after[0]


@pytest.mark.parametrize("number", [lambda: 7, iter(range(1000)).__next__], ids=["always the same", "always another"])
def test_a_python_whose_numbers_mean_nothing_is_told(
    number: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Place:
        value = property(lambda _: number())

    monkeypatch.setattr(written, "_number", lambda table: Place())
    assert not written._kept()


def test_what_is_no_dict_has_no_number() -> None:
    class Other(dict[str, int]):
        pass

    assert written.numbers([MappingProxyType(Other())]) is None or not written.KEPT
    assert written.numbers([{}, 3]) is None  # type: ignore[list-item]
