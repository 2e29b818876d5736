"""kdbench: compare knowledge-distillation methods fairly, fast and with evidence.

The public names are those a method file needs, the methods for training loops of your own, and the verbs of the
command line as functions. They load torch on first use, so that ``kdbench --help`` answers at once.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kdbench.version import __version__

if TYPE_CHECKING:
    from kdbench.distiller import Batch, Distiller, Outputs, Pair, Shapes, kl
    from kdbench.export.make import export
    from kdbench.library.attach import attach
    from kdbench.library.create import create
    from kdbench.library.kept import load_records, load_student, load_teacher
    from kdbench.library.literature import published
    from kdbench.library.verbs import report, run, tune
    from kdbench.models.own import register_model
    from kdbench.registry import register

__all__ = [
    "Batch",
    "Distiller",
    "Outputs",
    "Pair",
    "Shapes",
    "__version__",
    "attach",
    "create",
    "export",
    "kl",
    "load_records",
    "load_student",
    "load_teacher",
    "published",
    "register",
    "register_model",
    "report",
    "run",
    "tune",
]

_LIBRARY = "kdbench.library"
_HOMES = {
    "register": "kdbench.registry",
    "register_model": "kdbench.models.own",
    "__version__": "kdbench.version",
    "attach": f"{_LIBRARY}.attach",
    "create": f"{_LIBRARY}.create",
    "published": f"{_LIBRARY}.literature",
    "tune": f"{_LIBRARY}.verbs",
    **dict.fromkeys(("load_records", "load_student", "load_teacher"), f"{_LIBRARY}.kept"),
    # Packages that can be called, see kdbench.utils.wing.
    "export": "kdbench.export",
    "report": "kdbench.report",
    "run": "kdbench.run",
}


def home(name: str) -> str:
    """The module that defines a public name."""
    return _HOMES.get(name, "kdbench.distiller")


def __dir__() -> list[str]:
    return sorted(__all__)


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'kdbench' has no attribute {name!r}")
    found = import_module(home(name))
    return found if home(name) == f"kdbench.{name}" else getattr(found, name)
