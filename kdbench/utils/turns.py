"""Taking turns at a file that several processes read, change and write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout


@contextmanager
def turn(lock: Path, *, patience: float) -> Iterator[None]:
    """Nobody else's turn while the block lasts; for what helps, and must not end a run.

    After ``patience`` seconds, and where the folder is only read or knows no locks, the block begins all the same.

    >>> with turn(Path("speeds.lock"), patience=1.0):
    ...     pass
    """
    held = FileLock(lock)
    # The last: a folder whose file system has no locks.
    with suppress(OSError, Timeout, NotImplementedError):
        lock.parent.mkdir(parents=True, exist_ok=True)
        held.acquire(timeout=patience)
    try:
        yield
    finally:
        with suppress(OSError):
            held.release()
