"""Every example in a docstring of kdbench is run; the contract and what is built on it have one for each name."""

from __future__ import annotations

import doctest
import inspect
import pkgutil
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import pytest
import torch

import kdbench

#: Importing it runs the command line.
MODULES = sorted({found.name for found in pkgutil.walk_packages(kdbench.__path__, "kdbench.")} - {"kdbench.__main__"})
#: Files of which every public name has an example. Other wings have some.
COMPLETE = [name for name in MODULES if name.split(".")[1] in ("distiller", "registry", "testing")]
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Functions and classes that a module defines."""
    for name, value in vars(module).items():
        plain = inspect.unwrap(value) if callable(value) else None
        ours = getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
        if ours and (inspect.isfunction(plain) or inspect.isclass(plain)):
            yield name, value


@pytest.mark.usefixtures("own_registry")  # an example may register a method
@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of(name: str) -> None:
    with torch.random.fork_rng(devices=[]):
        failed, _ = doctest.testmod(import_module(name), optionflags=FLAGS)
    assert not failed, "the captured output says which and how"


@pytest.mark.parametrize("name", COMPLETE)
def test_every_public_name_has_an_example(name: str) -> None:
    bare = [what for what, value in public(import_module(name)) if ">>>" not in (inspect.getdoc(value) or "")]
    assert not bare, f"{name}: {', '.join(bare)} without an example"


def test_a_broken_example_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    module = ModuleType("kdbench.wrong", ">>> 1 + 1\n3")
    assert doctest.testmod(module, optionflags=FLAGS).failed == 1
    assert "Got:\n    2" in capsys.readouterr().out
