"""Which unit is next: what waits for what, what is begun again when its worker is lost, what is cut for idle ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace

from kdbench import record
from kdbench.run import grid
from kdbench.run.executors.spread import Load, spread
from kdbench.run.executors.unit import Unit
from kdbench.run.grid import Cell
from kdbench.run.group import Work
from kdbench.run.outcome import CellEnded, Done, Emit
from kdbench.utils.wording import count

#: Workers that may be lost over a unit before its cells fail.
TRIES = 3

Ended = tuple[Unit, Done]


class Board:
    """The units of a run, from the first to the last.

    >>> from pathlib import Path
    >>> from kdbench.run.session import Request, resolve
    >>> job = resolve(Request("student,label_smoothing", suite="digits", seeds="1", device="cpu"))
    >>> board = Board([Unit(0, Work(job.suite, tuple(job.cells), Path("results"), "cpu", "fp32"))], print)
    >>> one, other = board.take(idle=2), board.take(idle=1)
    >>> [len(unit.work.cells) for unit in (one, other)], board.take(idle=1)
    ([2, 2], None)
    """

    def __init__(self, units: Sequence[Unit], emit: Emit, tries: int = TRIES) -> None:
        self._emit, self._tries = emit, tries
        self._waiting = list(units)
        self._under_way: dict[int, Unit] = {}
        self._next = 1 + max((unit.number for unit in units), default=0)
        self._left = {
            unit.number: 1 for unit in units
        }  # of each number that others wait for, parts that have not ended
        self._of: dict[int, int] = {unit.number: unit.number for unit in units}  # a part's number -> the unit's

    @property
    def more(self) -> bool:
        """Whether any unit has not ended."""
        return bool(self._waiting or self._under_way)

    def take(self, idle: int = 1) -> Unit | None:
        """The unit to begin now; None: nothing can be.

        ``idle`` workers, the asking one among them, have nothing to do: the last unit that can begin is cut for them,
        unless others wait for what is under way.
        """
        ready = [unit for unit in self._waiting if not any(self._left.get(before) for before in unit.after)]
        if not ready:
            return None
        unit = max(ready, key=lambda one: (one.rank, -one.number))
        self._waiting.remove(unit)
        if idle > 1 and not self._waiting and not unit.work.teacher_only:
            worth = len(spread([_load(unit, unit.work.cells)], idle)[0])
            first, *others = self._cut(unit, worth) if worth > 1 else [unit]
            self._waiting += others
            unit = first
        self._under_way[unit.number] = unit
        return unit

    def _cut(self, unit: Unit, parts: int) -> list[Unit]:
        """Parts of a unit, each with a number of its own; all of them must end for the unit to have ended."""
        whole = self._of[unit.number]
        made = []
        for work in unit.parts(parts):
            made.append(replace(unit, number=self._next, work=work, load=_load(unit, work.cells)))
            self._of[self._next] = whole
            self._next += 1
        self._left[whole] += len(made) - 1
        return made

    def ended(self, unit: Unit, done: Done) -> Iterator[Ended]:
        """Count a unit as ended; gives it, and those that nobody can teach because of it."""
        self._under_way.pop(unit.number, None)
        self._left[self._of[unit.number]] -= 1
        yield unit, done
        if not done.untaught or not unit.work.teacher_only:
            return
        for other in [one for one in self._waiting if unit.number in one.after]:
            self._waiting.remove(other)
            self._left[self._of[other.number]] -= 1
            yield other, self._failed(other.work, other.work.cells, done.untaught)

    def lost(self, unit: Unit, ended: Mapping[Cell, CellEnded], why: str, *, counts: bool = True) -> Iterator[Ended]:
        """A worker is gone: the unit goes back without what had ended, in the end cell by cell, and then fails.

        Gives what of it has ended for good.

        Args:
            unit: that was under way.
            ended: what the worker had told of its cells.
            why: how it went.
            counts: whether the unit may be what ended it; a machine that is gone is nobody's fault here.
        """
        self._under_way.pop(unit.number, None)
        known = _known(unit.work, ended)
        left = tuple(cell for cell in unit.work.cells if not known.ended(cell))
        again = replace(unit, work=replace(unit.work, cells=left), load=_load(unit, left), tries=unit.tries + counts)
        if unit.work.teacher_only:
            again, known = replace(again, work=unit.work), Done()
        if (left or unit.work.teacher_only) and again.tries < self._tries:
            # A cell that ends its process is to end no other cell: the last try is each one's own.
            last = counts and again.tries == self._tries - 1 and len(left) > 1
            self._waiting += self._cut(again, len(left)) if last else [again]
            if ended:
                yield unit, known
            return
        sentence = f"the process that trained it was lost {again.tries} times: {why}; the command repeated tries again"
        if unit.work.teacher_only:
            known.untaught = f"no teacher {unit.work.cells[0].teacher}: {sentence}"
        elif left:
            failed = self._failed(unit.work, left, sentence)
            known.failed |= failed.failed
            known.stopped = failed.stopped
        yield from self.ended(unit, known)

    def _failed(self, work: Work, cells: Sequence[Cell], why: str) -> Done:
        done = Done(failed=dict.fromkeys(cells, why))
        for cell in cells:
            self._emit(CellEnded(cell, "failed", why))
        if work.fail_fast and cells:
            done.stopped = f"{cells[0]} failed: {why} (--fail-fast)"
        return done

    def abandoned(self) -> str:
        """What is left when no worker can be had any more, for a sentence."""
        return count(len(self._waiting) + len(self._under_way), "group")


def _load(unit: Unit, cells: Sequence[Cell]) -> Load:
    if len(unit.load.lanes) != len(unit.work.cells):
        return Load((1.0,) * len(cells))
    kept = dict(zip(unit.work.cells, unit.load.lanes, strict=True))
    return replace(unit.load, lanes=tuple(kept[cell] for cell in cells))


def _known(work: Work, ended: Mapping[Cell, CellEnded]) -> Done:
    """What became of cells of which a lost worker had told, with their records where it wrote some."""
    known = Done()
    for cell, event in ended.items():
        where = grid.files(work.records, cell)
        if event.status == "elsewhere":
            known.elsewhere.append(cell)
            continue
        with suppress(OSError, record.RecordDamaged):
            known.records[cell] = record.read(where.record if event.status == "done" else where.failed)
        if event.status == "failed":
            known.failed[cell] = event.sentence
    return known
