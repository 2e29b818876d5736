"""From a name to a method: the folder methods/, plug-in files, entry points, ``a+b``."""

from kdbench.registry.discovery import ABSENT, broken, get, idea, load_plugin, name_of, names, register
from kdbench.registry.hyper import Hyper, convert, hyperparameters
from kdbench.registry.specs import Spec, parse

__all__ = [
    "ABSENT",
    "Hyper",
    "Spec",
    "broken",
    "convert",
    "get",
    "hyperparameters",
    "idea",
    "load_plugin",
    "name_of",
    "names",
    "parse",
    "register",
]
