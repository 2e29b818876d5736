"""What goes wrong in training, told apart in one place."""

from __future__ import annotations

import torch


class OutOfMemory(Exception):
    """The device has not enough memory for these lanes at once."""


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on any device."""
    words = ("not enough memory", "can't allocate memory", "out of memory")
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in words)
    )


def first_cause(error: BaseException) -> str:
    """The first cause, on one line."""
    while error.__context__ is not None:
        error = error.__context__
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
