"""What a group holds in main memory while it trains, for the next process that takes its cells where this one dies.

When memory runs out, the system kills a process, which says nothing. A file beside the signs of life tells what it had
under way: the next one trains fewer lanes at once, and a cell that has died alone more than once fails, so that others
have their turn. No number depends on it. A group that ends takes its file away.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kdbench.run import grid
from kdbench.run.grid import Cell
from kdbench.run.hearts import GONE, folder
from kdbench.run.outcome import Emit, Note
from kdbench.utils.files import atomic_write, content
from kdbench.utils.wording import count

_SUFFIX = ".held"
#: Deaths of a cell alone, without a checkpoint between, before it fails.
ALONE = 2
_PROC = Path("/proc")


class Mark(BaseModel):
    """What one process has under way.

    >>> Mark(records="/data/results", boot="", kills=None, since=0.0, cells=["8f3a"], lanes=12).lanes
    12
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    records: str  # the folder of the cells' records
    boot: str  # of the system's start; "" where it does not tell
    kills: int | None  # processes that the system has killed for memory since then
    since: float  # seconds since 1970
    cells: list[str]  # their hashes
    lanes: int = 0  # under way at once; 0: none yet, or it ended in order
    most: int | None = None  # it was to have no more at once
    alone: int = 0  # deaths before this one, each with this one lane


def kills() -> int | None:
    """Processes that the system has killed for memory since it started; None: it does not tell.

    >>> kills() is None or kills() >= 0
    True
    """
    with suppress(OSError, ValueError):
        for line in (_PROC / "vmstat").read_text(encoding="ascii").splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return None


def _boot() -> str:
    with suppress(OSError, ValueError):
        return (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return ""


class Held:
    """What this process has under way of some cells, and what is known of those that died with them.

    ``most`` lanes at once, None where nothing speaks against all of them; ``doomed`` cells, with the sentence why, have
    died alone.
    """

    def __init__(self, out: Path, records: Path) -> None:
        self.out, self.records = out, os.path.abspath(records)
        self.most: int | None = None
        self.doomed: dict[Cell, str] = {}
        self.notes: list[str] = []
        self._cells: Sequence[Cell] = ()
        self._alone: dict[str, int] = {}
        self._path = folder(out) / f"{os.getpid()}-{secrets.token_hex(3)}{_SUFFIX}"
        self._mark: Mark | None = None

    def take(self, cells: Sequence[Cell], *, killed: bool) -> None:
        """Learn from the files of those who had these cells, who are gone: the cells are this process's by now.

        ``killed``: their process is known to have been killed by SIGKILL.
        """
        self._cells = cells
        mine = {cell.hash: cell for cell in cells}
        for path in folder(self.out).glob(f"*{_SUFFIX}"):
            with suppress(OSError, ValidationError):
                mark = Mark.model_validate_json(content(path))
                if mark.records == self.records and not mine.keys().isdisjoint(mark.cells):
                    self._learn(mark, mine, killed=killed)
                    self._leave(path, mark, mine)
                elif time.time() - mark.since > GONE:
                    path.unlink(missing_ok=True)

    def _learn(self, mark: Mark, mine: dict[str, Cell], *, killed: bool) -> None:
        most, now = mark.most, kills()
        known = now is not None and mark.kills is not None and mark.boot != "" and mark.boot == _boot()
        grown = known and now is not None and mark.kills is not None and now > mark.kills
        if mark.lanes and (killed or grown or not known):
            half = max(1, mark.lanes // 2)
            most = half if most is None else min(most, half)
            why = "the system ended a process for want of memory" if grown else "a process died, perhaps of memory,"
            if mark.lanes > 1:
                self.notes.append(
                    f"{why} while it trained {mark.lanes} lanes at once; going on with {half} (--lanes {half} begins"
                    " there)"
                )
            elif len(mark.cells) == 1:
                self._died_alone(mark, mine[mark.cells[0]], why)
        if most is not None:
            self.most = most if self.most is None else min(self.most, most)

    def _died_alone(self, mark: Mark, cell: Cell, why: str) -> None:
        with suppress(OSError):
            if grid.files(Path(self.records), cell).checkpoint.stat().st_mtime > mark.since:
                return  # it went on for a while: one lane does fit
        if mark.alone + 1 >= ALONE:
            self.doomed[cell] = (
                f"out of memory: {why} {count(mark.alone + 1, 'time')} in a row while it trained this lane alone; the"
                " command repeated tries again"
            )
        else:
            self._alone[cell.hash] = mark.alone + 1

    def _leave(self, path: Path, mark: Mark, mine: dict[str, Cell]) -> None:
        """To whoever takes the other cells of a file."""
        left = [name for name in mark.cells if name not in mine]
        if not left:
            path.unlink(missing_ok=True)
            return
        with atomic_write(path, "w") as file:
            file.write(mark.model_copy(update={"cells": left}).model_dump_json())

    def lanes(self, cells: Sequence[Cell]) -> None:
        """These are under way at once from now on."""
        names = [cell.hash for cell in cells]
        alone = self._alone.get(names[0], 0) if len(names) == 1 else 0
        self._write(names, len(names), alone)

    def _write(self, names: list[str], lanes: int, alone: int) -> None:
        told: dict[str, Any] = {"records": self.records, "boot": _boot(), "kills": kills(), "since": time.time()}
        self._mark = Mark(**told, cells=names, lanes=lanes, most=self.most, alone=alone)
        with suppress(OSError), atomic_write(self._path, "w") as file:
            file.write(self._mark.model_dump_json())

    def ended(self, *, well: bool) -> None:
        """The group has ended; where not all of it, the next one begins with as few lanes."""
        if not well and self.most is not None:
            self._write([cell.hash for cell in self._cells], 0, 0)
            return
        with suppress(OSError):
            self._path.unlink(missing_ok=True)
        with suppress(OSError):  # not empty, or never made
            self._path.parent.rmdir()


@contextmanager
def holding(
    out: Path, records: Path, cells: Sequence[Cell], emit: Emit, *, killed: bool = False, watch: bool = True
) -> Iterator[Held]:
    """What was known of the cells, which are claimed, said; and what is under way, written down as the block goes on.

    Args:
        out: where the signs of life lie.
        records: the folder of the cells' records.
        cells: of one group.
        emit: is told.
        killed: a process that had them was killed, whatever the system's counter says.
        watch: False: nothing is looked at or written (on a GPU fewer lanes would not spare main memory).

    >>> with holding(Path("results"), Path("results"), [], print) as held:
    ...     held.most, held.doomed
    (None, {})
    """
    held = Held(out, records)
    if not watch:
        held.lanes = lambda cells: None  # type: ignore[method-assign]
        yield held
        return
    held.take(cells, killed=killed)
    for sentence in dict.fromkeys(held.notes):
        emit(Note(sentence))
    well = False
    try:
        yield held
        well = True
    finally:
        held.ended(well=well)
