"""What may stand in a TOML file: numbers within bounds, never as texts; names that can be those of folders."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field

from kdbench.utils.wording import quoted

#: Epochs of a run, images of a batch, pixels of an image's side, classes: beyond these it is a slip of the pen.
EPOCHS, BATCH, PIXELS, CLASSES = 1_000_000, 65_536, 4096, 100_000
#: Seeds are numbers below this, and at most so many are asked for.
SEED, SEEDS = 2**63, 10_000
#: Letters of a suite's name.
NAME = 100


def two_names(pair: str) -> tuple[str, str]:
    """``teacher:student`` -> both.

    Raises:
        ValueError: it is not written so.
    """
    teacher, colon, student = (part.strip() for part in pair.partition(":"))
    if not (teacher and colon and student) or ":" in student:
        raise ValueError(f"a pair is written teacher:student, not {quoted(pair)}")
    return teacher, student


def _name(text: str) -> str:
    if text != text.strip() or not text or len(text) > NAME or not text.isprintable():
        raise ValueError(
            f"a suite's name has 1 to {NAME} printable letters and no blank around them, not {quoted(text)}"
        )
    if re.search(r"[/\\]", text) or text.startswith("."):
        raise ValueError(f"a suite's name has no / and no \\ in it and begins with no dot, not {quoted(text)}")
    return text


def _said(text: str) -> str:
    if not text.strip():
        raise ValueError("it is an empty text")
    return text


Name = Annotated[str, AfterValidator(_name)]
Said = Annotated[str, AfterValidator(_said)]
Flag = Annotated[bool, Field(strict=True)]
Finite = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Positive = Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Epochs = Annotated[int, Field(strict=True, ge=1, le=EPOCHS)]
Pixels = Annotated[int, Field(strict=True, ge=1, le=PIXELS)]
Seed = Annotated[int, Field(strict=True, ge=0, lt=SEED)]
