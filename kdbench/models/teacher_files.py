"""Which files belong to a teacher, and what a killed process has left of them."""

from __future__ import annotations

import os
import platform
import re
import time
from contextlib import suppress
from pathlib import Path

from kdbench.models import teacher_card

#: This machine, as a part of a file's name.
HOST = re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:40] or "here"
#: Seconds after which a file that no card names is nobody's: writing a teacher takes less.
ABANDONED = 3600


def weights_path(card: Path, sha256: str) -> Path:
    """The file of weights that a card with this hash names."""
    return card.with_name(f"{card.stem}.{sha256[:12]}.safetensors")


def named_weights(card: Path) -> Path | None:
    """The weights that the card in this place names; None when there is no card or it cannot be read.

    Those of kdbench 0.1.0 had no hash in their name.

    >>> named_weights(Path("nowhere/resnet20.json")) is None
    True
    """
    try:
        new = weights_path(card, teacher_card.read(card).sha256)
    except (ValueError, OSError):
        return None
    return new if new.exists() else card.with_suffix(".safetensors")


def tidy(card: Path) -> None:
    """Take away what a killed process has left in this place: parts of files, and weights that no card names.

    What another process may be writing now stays. A card that cannot be read keeps all weights: it may be restored.
    """
    with suppress(OSError):  # a folder that cannot be written is none of a reader's business
        writers = re.compile(rf"\.{re.escape(card.stem)}\..*\.(\d+)\.{re.escape(HOST)}\.part")
        for part in list(card.parent.glob(".*.part")):
            writer = writers.fullmatch(part.name)
            if _abandoned(part) or (writer is not None and not _alive(int(writer[1]))):
                part.unlink(missing_ok=True)
        named = named_weights(card)
        if named is None and card.exists():
            return
        ours = re.compile(re.escape(card.stem) + r"(\.[0-9a-f]{12})?\.safetensors")
        for weights in [file for file in card.parent.iterdir() if ours.fullmatch(file.name)]:
            if weights != named and _abandoned(weights):
                weights.unlink(missing_ok=True)


def _abandoned(file: Path) -> bool:
    with suppress(FileNotFoundError):
        return time.time() - file.stat().st_mtime > ABANDONED
    return False


def _alive(process: int) -> bool:
    if os.name == "nt":  # where signal 0 is no question
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is there, and somebody else's
        return True
    return True
