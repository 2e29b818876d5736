"""TOML files of this package or of the user's -> checked models, with one-sentence errors."""

from __future__ import annotations

import csv
import os
import tomllib
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from kdbench.utils.files import expanded, is_file
from kdbench.utils.wording import printable, quoted

HOME: Traversable = files("kdbench.suites")
#: Bytes of a file that may be a suite, and letters of what it says that an error repeats.
LARGEST, SHOWN = 2**20, 200


@cache
def shipped() -> tuple[str, ...]:
    """Names of the files that kdbench brings, sorted; read once, as all that lies there."""
    return tuple(sorted(file.name for file in HOME.iterdir()))


def find(kind: str, name: str, known: Iterable[str], prefix: str = "") -> tuple[Traversable, Traversable]:
    """The TOML file of a name, or of a path that ends in .toml; and the folder it lies in.

    Raises:
        ValueError: there is none; the nearest names are told.
    """
    if not isinstance(name, str):
        raise ValueError(f"a {kind} is a name, or the path of a .toml file, as text, not {quoted(repr(name))}")
    if name.endswith(".toml"):
        path = expanded(name)
        if not is_file(path):
            raise ValueError(f"no {kind} file {quoted(name, SHOWN)}")
        return path, path.resolve().parent
    known = list(known)
    if not known:
        raise ValueError(f"no {kind} file {quoted(name, SHOWN)}; give the path of a .toml file")
    if name not in known:
        raise ValueError(f"no {kind} {quoted(name)} (a file of yours ends in .toml); {nearest(name, known)}")
    return HOME / f"{prefix}{name}.toml", HOME


def anchored(dataset: str, home: Path | None = None) -> str:
    """``imagefolder:pets@32`` with the path from ``home`` on, the current folder where None; other words as they are.

    So the word means the same wherever a later command is started.
    """
    kind, colon, rest = dataset.partition(":")
    if kind != "imagefolder" or not colon:
        return dataset
    where, at, size = rest.rpartition("@")
    if not at or "/" in size:  # no size
        where, at, size = rest, "", ""
    if not where.strip() or "\0" in where:
        return dataset  # refused when the data are read
    path = os.path.join(home or os.curdir, os.path.expanduser(where))
    # ``..`` is followed as the system does; other links stay as they are written.
    path = os.path.realpath(path) if os.pardir in Path(path).parts else os.path.abspath(path)
    return f"{kind}:{path}{at}{size}"


def read(file: Traversable) -> dict[str, Any]:
    """What a TOML file says; a mark of UTF-8 at its beginning is passed over.

    Raises:
        ValueError: it is not TOML, not UTF-8, or so large that it is no suite.
        OSError: it cannot be read.
    """
    with file.open("rb") as opened:
        content = opened.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise ValueError(f"{file.name} has more than {LARGEST:,} bytes; what kdbench reads here is a page of TOML")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file.name} is not UTF-8, as TOML must be (byte {error.start}); save it as such") from error
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError(f"{file.name} is not readable as TOML: it is nested too deeply") from error
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{file.name} is not readable as TOML: {printable(str(error), SHOWN)}") from error
    except ValueError as error:  # Python's own
        raise ValueError(f"{file.name} is not readable as TOML: it has a number of thousands of digits") from error


def rows(home: Traversable, name: str) -> Sequence[dict[str, Any]]:
    """The rows of a CSV file; those of kdbench's own files are read once, and nobody changes them.

    Raises:
        OSError, ValueError, csv.Error: it cannot be read.
    """
    return _own_rows(name) if home is HOME else _rows(home / name)


@cache
def _own_rows(name: str) -> tuple[dict[str, Any], ...]:
    return _rows(HOME / name)


def _rows(file: Traversable) -> tuple[dict[str, Any], ...]:
    return tuple(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))


def nearest(word: str, known: Iterable[str]) -> str:
    """``did you mean x or y`` or, when nothing is near, ``there are a, b, c``."""
    known = sorted(known)
    same = [one for one in known if one.lower() == word.lower()]
    near = same or get_close_matches(word[:SHOWN], known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"


def sentence(error: ValidationError) -> str:
    """The first thing that pydantic found, as a sentence."""
    first = error.errors(include_url=False)[0]
    where = printable(".".join(str(part) for part in first["loc"]), SHOWN)
    said = first["msg"].removeprefix("Value error, ")
    given = first["input"]
    shown = "" if isinstance(given, dict) or first["type"] == "value_error" else f", not {_shown(given)}"
    return f"{where}: {said[0].lower()}{said[1:]}{shown}" if where else said


def _shown(given: object) -> str:
    try:
        return printable(repr(given), SHOWN)
    except (RecursionError, ValueError):  # nested deeply, or a number of thousands of digits
        return f"this {type(given).__name__}"
