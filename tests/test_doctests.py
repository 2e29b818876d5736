"""Every example in a docstring of kdbench is run, and every public name has one.

Public is what a package lists in ``__all__``, and what a wing of the house takes from another one: a person who writes
against kdbench starts from the same names. ``terminal`` and ``cli`` offer words of the command line in place of names;
``--help`` tells those. Of what is built for methods' authors and of the contract, every name has an example.
"""

from __future__ import annotations

import ast
import doctest
import inspect
import pkgutil
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_layers import PACKAGE, files, parsed

import kdbench

#: Importing it runs the command line.
MODULES = sorted({found.name for found in pkgutil.walk_packages(kdbench.__path__, "kdbench.")} - {"kdbench.__main__"})
#: Wings of which every name without an underscore is public.
COMPLETE = ("distiller", "registry", "testing")
#: Wings that are spoken to in words, not in Python.
SPOKEN = ("terminal", "cli")
#: What cannot be shown everywhere, and why.
WITHOUT = {
    "kdbench.engine.memory.free": "it asks a CUDA device",
    "kdbench.engine.graph.backend.Graphs": "CUDA graphs are recorded on a CUDA device",
    "kdbench.engine.graph.capture.strict": "only a CUDA device makes the host wait",
}
#: Examples that start processes; what they show, tests/test_data_bench.py tests too.
LONG = {"kdbench.bench.data_sources"}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def public(module: ModuleType) -> Iterator[tuple[str, object]]:
    """Functions and classes that a module defines."""
    for name, value in vars(module).items():
        plain = inspect.unwrap(value) if callable(value) else None
        ours = getattr(value, "__module__", "") == module.__name__ and not name.startswith("_")
        if ours and (inspect.isfunction(plain) or inspect.isclass(plain)):
            yield name, value


def wing(module: str) -> str:
    """``kdbench.engine.fit`` -> ``engine``."""
    return f"{module}.".split(".")[1]


def uses(file: Path) -> Iterator[str]:
    """Dotted names of kdbench that a file takes: what it imports, and what it reads of that (``a`` and ``a.b``)."""
    tree, known = parsed(file.read_text()), dict[str, str]()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kdbench":
            known |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            ours = [alias for alias in node.names if alias.name.startswith("kdbench.")]
            known |= {alias.asname: alias.name for alias in ours if alias.asname}
    yield from known.values()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in known:
            yield f"{known[node.value.id]}.{node.attr}"


def home(dotted: str) -> str:
    """Where the function or class of that name is defined: ``kdbench.data.load`` is ``kdbench.data.sets.load``."""
    module, _, name = dotted.rpartition(".")
    try:
        value = getattr(import_module(module), name, None)
    except ModuleNotFoundError:  # an attribute of a class
        return ""
    return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', '')}"


@cache
def offered() -> frozenset[str]:
    """Homes of the names that are listed in ``__all__`` or taken by another wing."""
    found = set()
    for module in ("kdbench", *MODULES):
        found |= {home(f"{module}.{name}") for name in getattr(import_module(module), "__all__", ())}
    for file in files():
        here = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        found |= {name for name in map(home, uses(file)) if wing(name) != here}
    return frozenset(found)


def bare(name: str) -> list[str]:
    """Public names of a module that have no example."""
    return [
        what
        for what, value in public(import_module(name))
        if ">>>" not in (inspect.getdoc(value) or "") and (wing(name) in COMPLETE or f"{name}.{what}" in offered())
    ]


@pytest.mark.usefixtures("own_registry")  # an example may register a method
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in MODULES]
)
def test_the_examples_of(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module(name)
    monkeypatch.chdir(tmp_path)  # an example may write into the current folder
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        failed, _ = doctest.testmod(module, optionflags=FLAGS)
    torch.set_num_threads(threads)
    assert not failed, "the captured output says which and how"


def test_every_public_name_has_an_example() -> None:
    every = [f"{name}.{what}" for name in MODULES if wing(name) not in SPOKEN for what in bare(name)]
    missing = [full for full in every if full not in WITHOUT]
    assert not missing, f"without an example: {', '.join(missing)}"


def test_what_has_no_example_is_public_and_cannot_be_shown() -> None:
    assert all(full.rpartition(".")[2] in bare(full.rpartition(".")[0]) for full in WITHOUT)


def test_what_another_wing_takes_is_public(tmp_path: Path) -> None:
    taker = tmp_path / "taker.py"
    taker.write_text("from kdbench import data, kl\nfrom kdbench.engine import fit as loop\ndata.load\nloop.split.x\n")
    assert set(map(home, uses(taker))) >= {
        "kdbench.data.sets.load",
        "kdbench.distiller.kl",
        "kdbench.engine.fit.split",
    }
    assert {"kdbench.models.zoo.create", "kdbench.distiller.Distiller", "kdbench.run.runner.run"} <= offered()
    assert "kdbench.run.runner.Emit" not in offered()


def test_a_broken_example_is_seen(capsys: pytest.CaptureFixture[str]) -> None:
    module = ModuleType("kdbench.wrong", ">>> 1 + 1\n3")
    assert doctest.testmod(module, optionflags=FLAGS).failed == 1
    assert "Got:\n    2" in capsys.readouterr().out
