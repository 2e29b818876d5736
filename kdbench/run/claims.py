"""Whose a cell is: one process at a time trains it, and what another one finished is not trained again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from kdbench.run import grid
from kdbench.run.grid import Cell
from kdbench.run.outcome import CellEnded, Done, Emit, Note


@contextmanager
def claimed(
    out: Path, cells: Sequence[Cell], done: Done, emit: Emit, *, force: bool, wait: bool, since: float = math.inf
) -> Iterator[list[Cell]]:
    """Those of the cells that are this process's to train; they are locked while the block lasts.

    Lock files lie in a folder of their own and stay: one that is taken away while somebody waits for it has two
    owners.

    Args:
        out: the folder of the records.
        cells: of one group.
        done: learns of cells that others finished or train.
        emit: likewise.
        force: begin anew whatever is there from before ``since``, a time of the folder's file system: what is younger
            is this run's own, of a process that was lost.
        wait: for another process that trains one of them (assistants, which this run needs), in place of leaving it.
    """
    with ExitStack() as locks:
        mine = []
        # Locks that are waited for are taken in one order by every process.
        for cell in sorted(cells, key=lambda one: grid.files(out, one).lock) if wait else cells:
            where = grid.files(out, cell)
            if not _lock(where.lock, locks, wait=wait, before=_say_waiting(cell, emit)):
                done.elsewhere.append(cell)
                emit(CellEnded(cell, "elsewhere", "another kdbench run on this folder is training it"))
            elif force and _older(where.record, since):
                if _older(where.checkpoint, since):
                    where.checkpoint.unlink(missing_ok=True)
                mine.append(cell)
            elif where.record.exists():
                done.found.append(cell)
            else:
                mine.append(cell)
        yield mine


def _older(path: Path, since: float) -> bool:
    """Whether there is no file, or one from before."""
    try:
        return path.stat().st_mtime < since
    except FileNotFoundError:
        return True


def _say_waiting(cell: Cell, emit: Emit) -> Callable[[], None]:
    return lambda: emit(Note(f"another kdbench run is training the teacher assistant {cell}; waiting for it"))


def _lock(path: Path, locks: ExitStack, *, wait: bool, before: Callable[[], None]) -> bool:
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            return False
        before()
        lock.acquire()
    locks.callback(lock.release)
    return True
