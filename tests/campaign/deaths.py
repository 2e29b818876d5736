"""Ways to die in the midst of things: by the clock, at the k-th change of a file, at the n-th byte of one."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

#: What the system is asked for when a file comes, changes its name, or goes.
_EVENTS = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
#: Signals by which a process dies here.
SIGNALS = (-signal.SIGKILL, -signal.SIGXFSZ)


class Death(NamedTuple):
    """How a command dies: ``before`` is called in its process; ``seconds`` after which it is killed."""

    what: str
    before: Callable[[], None] | None = None
    seconds: float | None = None


def after(seconds: float) -> Death:
    """By SIGKILL, some time."""
    return Death(f"killed after {seconds:.3f} s", seconds=seconds)


def at_change(number: int, below: Path) -> Death:
    """By SIGKILL, just before the ``number``-th change of a file below a folder."""

    def before() -> None:
        left = number

        def seen() -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        _watch(below, seen)

    return Death(f"killed at change {number} of a file", before)


def at_byte(number: int) -> Death:
    """In the midst of a write, when a file has so many bytes: the system ends whoever goes on writing."""

    def before() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (number, number))

    return Death(f"ended at byte {number:,} of a file", before)


class Counter:
    """Counts, in a child, the changes of files below a folder; its parent can read it."""

    def __init__(self, below: Path) -> None:
        self._below, self._shared = below, mmap.mmap(-1, 8)

    def before(self) -> None:
        """Begin, in the child."""

        def seen() -> None:
            self._shared[:] = (self.count + 1).to_bytes(8, "little")

        _watch(self._below, seen)

    @property
    def count(self) -> int:
        """So far."""
        return int.from_bytes(self._shared[:], "little")


def _watch(below: Path, seen: Callable[[], None]) -> None:
    """Call ``seen`` before every change of a file below a folder, and before one is forced to disk."""
    root = os.fspath(below)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            ours = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR)
        else:
            ours = event in _EVENTS
        if ours and args and isinstance(args[0], str | os.PathLike) and os.fspath(args[0]).startswith(root):
            seen()

    sys.addaudithook(hook)
    sync = os.fsync

    def fsync(file: Any) -> None:
        seen()
        sync(file)

    os.fsync = fsync  # type: ignore[assignment]
