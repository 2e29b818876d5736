"""The words of the command line as Python has them: lists for commas, mappings for ``key=value``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from kdbench import registry
from kdbench.run.session import Request
from kdbench.utils.files import expanded

Several = str | Iterable[str] | None
Place = str | Path | None


def folder(given: Place, variable: str, default: str | None = None) -> Path | None:
    """A folder: what is given, else what the environment says, else the default.

    >>> folder("a", "KDBENCH_OUT")
    PosixPath('a')
    """
    found = given if given is not None else os.environ.get(variable) or default
    return None if found is None else expanded(found)


def out_folder(out: Place) -> Path:
    """The output folder: ``out``, else ``$KDBENCH_OUT``, else "results"."""
    found = folder(out, "KDBENCH_OUT", "results")
    assert found is not None
    return found


def joined(words: Several) -> str | None:
    """``["a", "b"]`` or ``"a,b"`` as the command line has it.

    >>> joined(["semckd", "crd"]), joined("semckd,crd"), joined(None)
    ('semckd,crd', 'semckd,crd', None)
    """
    return words if words is None or isinstance(words, str) else ",".join(map(str, words))


def seeds(given: int | str | Iterable[int] | None) -> str | None:
    """A count, a list, or as the command line has them.

    >>> seeds(3), seeds([4]), seeds("0,1")
    ('3', '4,', '0,1')
    """
    if given is None or isinstance(given, str | int):
        return None if given is None else str(given)
    return "".join(f"{one}," for one in given)


def settings(given: Several | Mapping[str, Any]) -> tuple[str, ...]:
    """``{"recipe.lr": 0.1}`` or ``["recipe.lr=0.1"]`` as --set has them.

    >>> settings({"recipe.lr": 0.1, "recipe.milestones": [3, 4], "recipe.flip": False})
    ('recipe.lr=0.1', 'recipe.milestones=3,4', 'recipe.flip=false')
    """
    if isinstance(given, Mapping):
        return tuple(f"{key}={_value(value)}" for key, value in given.items())
    return (given,) if isinstance(given, str) else tuple(given or ())


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ",".join(map(_value, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def plugins(given: Place | Iterable[str | Path]) -> None:
    """Load methods of files.

    Raises:
        ValueError: one of them cannot be.
    """
    for path in (given,) if isinstance(given, str | Path) else given or ():
        registry.load_plugin(path)


def request(
    *,
    methods: Several,
    pairs: Several,
    set: Several | Mapping[str, Any],
    plugin: Place | Iterable[str | Path],
    data_dir: Place,
    out: Place,
    **words: Any,
) -> Request:
    """A request for a session, its plug-ins loaded.

    Raises:
        ValueError: a plug-in cannot be loaded, or there is no such home folder.
    """
    plugins(plugin)
    return Request(
        methods=joined(methods),
        pairs=joined(pairs) or "",
        overrides=settings(set),
        out=out_folder(out),
        data_dir=folder(data_dir, "KDBENCH_DATA"),
        **words,
    )
