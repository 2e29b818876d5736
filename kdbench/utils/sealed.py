"""Sealed files: JSON that is written whole, with a checksum, and not believed where it was cut or edited."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from kdbench.utils.files import atomic_write, content
from kdbench.utils.sealing import checksum, parsed


def write(one: BaseModel, path: Path) -> dict[str, Any]:
    """Put a model that has a field ``checksum`` on disk, whole or not at all; returns what stands there now.

    Raises:
        OSError: it cannot be written; what lay there before is untouched.

    >>> class Choice(BaseModel):
    ...     beta: float
    ...     checksum: str = ""
    >>> written = write(Choice(beta=400), Path("choice.json"))
    >>> written == fields(Path("choice.json")), sorted(written)
    (True, ['beta', 'checksum'])
    """
    values: dict[str, Any] = json.loads(one.model_dump_json(exclude={"checksum"}))
    values["checksum"] = checksum(values)
    with atomic_write(path, "w") as file:
        json.dump(values, file, indent=1, allow_nan=False)
        file.write("\n")
    return values


def fields(path: Path) -> dict[str, Any]:
    """What stands in a file, before anybody has believed it; no fields where it is JSON of another kind.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it cannot be read, or is cut; one sentence.

    >>> _ = Path("cut.json").write_text('{"beta": ')
    >>> fields(Path("cut.json"))
    Traceback (most recent call last):
    ValueError: cut.json is truncated or not JSON: Expecting value: line 1 column 10 (char 9)
    """
    try:
        values = parsed(content(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(*error.args) from error
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise ValueError(f"{path} is truncated or not JSON: {error}") from error
    return values if isinstance(values, dict) else {}


def check(path: Path, values: Mapping[str, Any]) -> None:
    """Compare the fields of a file with their seal.

    Raises:
        ValueError: it was edited; one sentence.

    >>> check(Path("choice.json"), {"beta": 10.0, "checksum": "0123"})
    Traceback (most recent call last):
    ValueError: choice.json was changed after it was written: its checksum differs
    """
    try:
        whole = values["checksum"] == checksum({name: value for name, value in values.items() if name != "checksum"})
    except RecursionError:
        raise ValueError(f"{path} is nested too deeply") from None
    if not whole:
        raise ValueError(f"{path} was changed after it was written: its checksum differs")
