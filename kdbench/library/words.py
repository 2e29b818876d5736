"""The words of the command line as Python has them: lists for commas, mappings for ``key=value``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from numbers import Integral
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
    if words is not None and not isinstance(words, Iterable):
        raise ValueError(f"methods, pairs, suites and formats are texts, or lists of them, not {words!r}")
    return words if words is None or isinstance(words, str) else ",".join(map(str, words))


def seeds(given: int | str | Iterable[int] | None) -> str | None:
    """A count, a list, or as the command line has them.

    >>> seeds(3), seeds([4]), seeds("0,1")
    ('3', '4,', '0,1')
    """
    if isinstance(given, bool) or not isinstance(given, str | int | Iterable | None):
        raise ValueError(f"--seeds takes a count such as 3 or a list such as 0,1,2, not {given!r}")
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


def whole(**numbers: Any) -> None:
    """Raises: ValueError: one that was given is no whole number.

    >>> whole(epochs=3, limit_train=None)
    >>> whole(limit_train="96")
    Traceback (most recent call last):
    ValueError: --limit-train takes a whole number, not '96'
    """
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise ValueError(f"--{name.replace('_', '-')} takes a whole number, not {value!r}")


def texts(**words: Any) -> None:
    """Raises: ValueError: one that was given is no text."""
    for name, value in words.items():
        if not isinstance(value, str | Path):
            raise ValueError(f"--{name.replace('_', '-')} takes a text, not {value!r}")


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
    whole(**{name: words.get(name) for name in ("epochs", "limit_train", "lanes", "data_workers")})
    texts(
        **{
            name: words[name]
            for name in ("suite", "precision", "graphs", "table", "weights", "data_source", "executor")
            if name in words
        }
    )
    texts(**{name: words[name] for name in ("notify", "ray_address") if words.get(name) is not None})
    if "suite" in words:
        words["suite"] = str(words["suite"])  # a path of a file is one, too
    if "device" in words:
        words["device"] = str(words["device"])  # a torch.device
    plugins(plugin)
    return Request(
        methods=joined(methods),
        pairs=joined(pairs) or "",
        overrides=settings(set),
        out=out_folder(out),
        data_dir=folder(data_dir, "KDBENCH_DATA"),
        **words,
    )
