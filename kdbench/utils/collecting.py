"""Garbage that is not looked for while thousands of files are read, of which nothing is garbage."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_collecting() -> Iterator[None]:
    """Python looks for no circles of objects in the block: with every thousand more it would look at all again.

    >>> with no_collecting():
    ...     gc.isenabled()
    False
    """
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@contextmanager
def set_aside() -> Iterator[None]:
    """What there is by now is not looked through for circles while the block lasts; what comes after is.

    >>> with set_aside():
    ...     gc.get_freeze_count() > 0
    True
    """
    ours = gc.get_freeze_count() == 0  # else somebody's own are set aside, and stay so
    if ours:
        gc.freeze()
    try:
        yield
    finally:
        if ours:
            gc.unfreeze()
