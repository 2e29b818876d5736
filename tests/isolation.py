"""Plug-ins for a test, without a trace in the registry afterwards."""

import sys
from pathlib import Path

import pytest

from kdbench import Distiller, registry
from kdbench.registry import discovery


def isolate(monkeypatch: pytest.MonkeyPatch) -> None:
    """The test registers into copies of the registry's tables, and its plug-ins are forgotten."""
    registry.names()  # discovered before, not inside
    for table in ("_classes", "_broken"):
        monkeypatch.setattr(discovery, table, dict(getattr(discovery, table)))
    for name in list(sys.modules):
        if name.startswith("kdbench_plugin_"):
            monkeypatch.delitem(sys.modules, name)


def plugin(file: Path, monkeypatch: pytest.MonkeyPatch) -> type[Distiller]:
    """The class that a plug-in file registers."""
    isolate(monkeypatch)
    return registry.get(registry.load_plugin(file))
