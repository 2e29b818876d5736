"""The words of the command line as Python has them: lists for commas, mappings for ``key=value``."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any

from kdbench.run.plugins import load as load_plugin
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

    Raises:
        ValueError: neither a text nor a list of texts.

    >>> joined(["semckd", "crd"]), joined("semckd,crd"), joined(None)
    ('semckd,crd', 'semckd,crd', None)
    """
    return words if words is None or isinstance(words, str) else ",".join(map(str, _listed(words, words)))


def _listed(given: Any, whole: Any) -> list[str | Path]:
    """Raises: ValueError: what was given for methods and the like is no list of texts."""
    found: list[Any] = [given] if isinstance(given, bytes | Mapping) else _spread(given)
    if not all(isinstance(one, str | Path) for one in found):
        raise ValueError(f"methods, pairs, suites, trackers and formats are texts, or lists of them, not {whole!r}")
    return found


def _spread(given: Any) -> list[Any]:
    """What a list holds; anything else, a single number of torch's too, is one."""
    try:
        return [given] if isinstance(given, str) else list(given)
    except TypeError:
        return [given]


def seeds(given: int | str | Iterable[int] | None) -> str | None:
    """A count, a list, or as the command line has them.

    Raises:
        ValueError: none of these.

    >>> seeds(3), seeds([4]), seeds("0,1")
    ('3', '4,', '0,1')
    """
    given = _plain(given)
    if given is None or isinstance(given, str):
        return given
    if isinstance(given, Integral) and not isinstance(given, bool):
        return str(int(given))
    if not isinstance(given, Iterable) or isinstance(given, bytes | Mapping):
        raise ValueError(f"--seeds takes a count such as 3 or a list such as 0,1,2, not {given!r}")
    return "".join(f"{one}," for one in given)


def settings(given: Several | Mapping[str, Any]) -> tuple[str, ...]:
    """``{"recipe.lr": 0.1}`` or ``["recipe.lr=0.1"]`` as --set has them.

    Raises:
        ValueError: neither a mapping nor texts.

    >>> settings({"recipe.lr": 0.1, "recipe.milestones": [3, 4], "recipe.flip": False})
    ('recipe.lr=0.1', 'recipe.milestones=3,4', 'recipe.flip=false')
    """
    if isinstance(given, Mapping):
        return tuple(f"{key}={_value(value)}" for key, value in given.items())
    if given is None:
        return ()
    found = _spread(given)
    if isinstance(given, bytes) or not all(isinstance(one, str) for one in found):
        raise ValueError(f"--set takes KEY=VALUE, a list of such or a mapping, not {given!r}")
    return tuple(found)


def _value(value: Any) -> str:
    value = _plain(value)
    if isinstance(value, list | tuple):
        return ",".join(map(_value, value))
    return str(value).lower() if isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    """Python's own number or list in the place of numpy's or torch's."""
    to_plain = getattr(value, "tolist", None)
    return value if to_plain is None else to_plain()


def whole(**numbers: Any) -> None:
    """Raises: ValueError: one that was given is no whole number.

    >>> whole(epochs=3, limit_train=None)
    >>> whole(limit_train="96")
    Traceback (most recent call last):
    ValueError: --limit-train takes a whole number, not '96'
    """
    for name, value in numbers.items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, Integral)):
            raise ValueError(f"{_option(name)} takes a whole number, not {value!r}")


def needed(**numbers: Any) -> None:
    """As ``whole``, and None will not do."""
    whole(**{name: "None" if value is None else value for name, value in numbers.items()})


def texts(**words: Any) -> None:
    """Raises: ValueError: one that was given is no text."""
    for name, value in words.items():
        if not isinstance(value, str | Path):
            raise ValueError(f"{_option(name)} takes a text, not {value!r}")


def switches(**words: Any) -> dict[str, bool]:
    """Python's own truth values in the place of numpy's.

    Raises:
        ValueError: one is no truth value: the text "no" would be taken for yes.

    >>> switches(force=False)
    {'force': False}
    >>> switches(force="no")
    Traceback (most recent call last):
    ValueError: --force takes True or False, not 'no'
    """
    found = {name: _plain(value) for name, value in words.items()}
    for name, value in found.items():
        if not isinstance(value, bool):
            raise ValueError(f"{_option(name)} takes True or False, not {value!r}")
    return found


def heard(say: Any) -> None:
    """Raises: ValueError: who is to hear of a run cannot be called."""
    if say is not None and not callable(say):
        raise ValueError(f"say is a function of one sentence, such as print, not {say!r}")


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def plugins(given: Place | Iterable[str | Path]) -> None:
    """Load methods of files.

    Raises:
        ValueError: one of them cannot be.
    """
    found = _spread(given)
    if given is not None and (isinstance(given, bytes) or not all(isinstance(one, str | Path) for one in found)):
        raise ValueError(f"--plugin takes a path or a list of paths, not {given!r}")
    for path in found if given is not None else ():
        load_plugin(path)


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
    numbers = {name: words[name] for name in ("epochs", "limit_train", "lanes", "data_workers") if name in words}
    whole(**numbers)
    words |= {name: None if value is None else int(value) for name, value in numbers.items()}
    words |= switches(**{name: words[name] for name in ("force", "retry_failed", "fail_fast") if name in words})
    if words.get("compile") is not None:
        words |= switches(compile=words["compile"])
    if words.get("shard") is not None:
        texts(shard=words["shard"])
    if isinstance(words.get("checkpoint_minutes"), Real) and not isinstance(words["checkpoint_minutes"], bool):
        try:
            words["checkpoint_minutes"] = float(words["checkpoint_minutes"])
        except OverflowError:
            words["checkpoint_minutes"] = math.inf
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
