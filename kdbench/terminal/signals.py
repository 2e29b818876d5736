"""Signals that ask the program to end: as Ctrl-C, everything under way ends in order; only the exit code differs."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from kdbench.utils.children import own

#: Ctrl-C is Python's own matter.
_ASKED = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


class Asked(KeyboardInterrupt):
    """A signal has asked the program to end."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


def _raise(number: int, frame: FrameType | None) -> None:
    raise Asked(number)


@contextmanager
def orderly() -> Iterator[None]:
    """Signals that would kill the process raise ``Asked`` inside the block, unless somebody ignores or hears them."""
    ours = []
    if threading.current_thread() is threading.main_thread():
        ours = [number for number in _ASKED if signal.getsignal(number) is signal.SIG_DFL]
    for number in ours:
        signal.signal(number, own(_raise))
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)
