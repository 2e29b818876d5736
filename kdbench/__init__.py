"""kdbench: compare knowledge-distillation methods fairly, fast and with evidence.

The public names are those a method file needs; they load torch on first use, so that
``kdbench --help`` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kdbench.version import __version__

if TYPE_CHECKING:
    from kdbench.distiller import Batch, Distiller, Outputs, Pair, Shapes, kl
    from kdbench.models.own import register_model
    from kdbench.registry import register

__all__ = ["Batch", "Distiller", "Outputs", "Pair", "Shapes", "__version__", "kl", "register", "register_model"]

_HOMES = {"register": "kdbench.registry", "register_model": "kdbench.models.own", "__version__": "kdbench.version"}


def home(name: str) -> str:
    """The module that defines a public name."""
    return _HOMES.get(name, "kdbench.distiller")


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'kdbench' has no attribute {name!r}")
    return getattr(import_module(home(name)), name)
