"""From a name to a method: the folder methods/, plug-in files, entry points, ``a+b``."""

from kdbench.distiller import Hyper
from kdbench.registry.discovery import (
    ABSENT,
    attend,
    broken,
    get,
    idea,
    load_plugin,
    name_of,
    names,
    plugin_files,
    register,
    source_sha256,
    strangers,
    unload,
)
from kdbench.registry.hyper import convert, sound
from kdbench.registry.specs import Spec, parse

__all__ = [
    "ABSENT",
    "Hyper",
    "Spec",
    "attend",
    "broken",
    "convert",
    "get",
    "idea",
    "load_plugin",
    "name_of",
    "names",
    "parse",
    "plugin_files",
    "register",
    "sound",
    "source_sha256",
    "strangers",
    "unload",
]
