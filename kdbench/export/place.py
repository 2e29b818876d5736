"""Where the files of an export lie, and whether what is there already is an export of ours that nobody has changed."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from kdbench.utils.files import atomic_write, content

WEIGHTS, CONFIG = "model.safetensors", "config.json"
_BEFORE, _AFTER = "<!-- kdbench export ", " -->\n"


def card_path(file: Path) -> Path:
    """The card of a file: README.md beside ``model.safetensors``, as hubs show it, else ``FILE.md``.

    >>> card_path(Path("kd/model.safetensors")).as_posix(), card_path(Path("net.pt2")).as_posix()
    ('kd/README.md', 'net.pt2.md')
    """
    return file.parent / "README.md" if file.name == WEIGHTS else file.with_name(f"{file.name}.md")


def write_card(text: str, files: Sequence[Path]) -> Path:
    """The card beside the first of an export's files, all of which are there; its last line knows them and itself.

    Raises:
        OSError: it cannot be written.
    """
    path = card_path(files[0])
    said = {"card": _digest(text.encode()), "files": {file.name: _digest(content(file)) for file in files}}
    with atomic_write(path, "w") as stream:
        stream.write(f"{text}{_BEFORE}{json.dumps(said, sort_keys=True)}{_AFTER}")
    return path


def free(files: Sequence[Path]) -> None:
    """Nothing lies in the place of an export's files, or an export that is as it was written.

    Raises:
        ValueError: something of somebody else's does, or an export that was changed since.

    >>> free([Path("net.pt2")])
    """
    card = card_path(files[0])
    there = [file for file in (*files, card) if os.path.lexists(file)]
    if there and not _ours(card, files, there):
        raise ValueError(
            f"{there[0]} is there and no export of kdbench; name another --out, or move it away (an export that was"
            " changed, or broken off, is nobody's)"
        )


def _ours(card: Path, files: Iterable[Path], there: Iterable[Path]) -> bool:
    try:
        text, _, last = content(card).decode().rpartition(_BEFORE)
        said = json.loads(last.removesuffix(_AFTER))
        known: dict[str, str] = said["files"]
        whole = last.endswith(_AFTER) and said["card"] == _digest(text.encode()) and text
        mine = known.keys() <= {file.name for file in files}
        return bool(whole and mine) and all(known[one.name] == _digest(content(one)) for one in there if one != card)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
