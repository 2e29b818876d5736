"""Ways to damage a file, all drawn from given random numbers."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x00\x00\x00\x00:~\x9bU"


def _flipped(content: bytes, draw: random.Random, bits: int) -> bytes:
    changed = bytearray(content)
    for _ in range(bits if content else 0):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


#: The new content, from the old one.
CONTENTS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "flip": lambda old, draw: _flipped(old, draw, 1),
    "flips": lambda old, draw: _flipped(old, draw, 20),
    "cut": lambda old, draw: old[: draw.randrange(max(1, len(old)))],
    "short": lambda old, draw: old[:-1],
    "empty": lambda old, draw: b"",
    "zeros": lambda old, draw: bytes(len(old)),
    "noise": lambda old, draw: draw.randbytes(len(old)),
    "twice": lambda old, draw: old + old,
    "picture": lambda old, draw: PNG,
    "json": lambda old, draw: b'{"format": 2, "checksum": [], "sha256": null}\n',
    "list": lambda old, draw: b"[1, 2]\n",
    "text": lambda old, draw: b"hello\n",
    "latin": lambda old, draw: b"name = '\xe4'\n",
}


def _folder(path: Path) -> None:
    path.mkdir()


def _pipe(path: Path) -> None:
    os.mkfifo(path)


def _loop(path: Path) -> None:
    path.symlink_to(path)


def _dangling(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


#: What takes the file's place.
PLACES: dict[str, Callable[[Path], None]] = {
    "folder": _folder,
    "pipe": _pipe,
    "loop": _loop,
    "dangling": _dangling,
    "gone": lambda path: None,
}
#: A good file of the same type takes its place.
OTHER = "other"
KINDS = (*CONTENTS, *PLACES, OTHER)


def spoil(path: Path, kind: str, draw: random.Random) -> str:
    """Damage a file; returns what was done to it, in words."""
    if kind in CONTENTS:
        old = path.read_bytes()
        new = CONTENTS[kind](old, draw)
        path.write_bytes(new)
        first = next((at for at, pair in enumerate(zip(old, new, strict=False)) if len(set(pair)) > 1), None)
        return f"{path.name} {kind}, {len(old)} bytes now {len(new)}" + (f", the first at {first}" if first else "")
    if kind == OTHER:
        theirs = sorted(one for one in path.parent.parent.rglob(f"*{path.suffix}") if one.is_file() and one != path)
        chosen = draw.choice([one for one in theirs if one.read_bytes() != path.read_bytes()] or [path])
        path.write_bytes(chosen.read_bytes())
        return f"{path.name} is what {chosen.name} was"
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
    PLACES[kind](path)
    return f"{path.name} is a {kind}" if kind != "gone" else f"{path.name} is gone"
