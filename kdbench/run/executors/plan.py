"""From groups to units: teachers that several need come first, what is too large for the workers is cut."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdbench.run import teachers
from kdbench.run.executors.spread import Load, ranked, spread
from kdbench.run.executors.unit import Unit
from kdbench.run.executors.weights import Weights
from kdbench.run.group import Work


def in_a_row(works: Sequence[Work]) -> list[Unit]:
    """Units for one worker, as they come.

    >>> in_a_row([])
    []
    """
    return [Unit(number, work) for number, work in enumerate(works)]


def abreast(works: Sequence[Work], workers: int) -> list[Unit]:
    """Units for several workers; ``works`` has those of assistants before those of their pupils.

    A teacher that is not stored yet is a unit of its own, which all that learn from it wait for: it is trained once,
    and nobody waits for it idly. Each part of a group that is cut repeats the teacher pass.

    >>> from pathlib import Path
    >>> from kdbench.run.session import Request, resolve
    >>> job = resolve(Request("kd,at", "resnet20:resnet8", "digits", seeds="2", device="cpu"))
    >>> common = Work(job.suite, (), Path("results"), "cpu", "fp32")
    >>> works = [replace(common, cells=tuple(c for c in job.cells if c.seed == seed)) for seed in (0, 1)]
    >>> [(unit.work.teacher_only, sorted(unit.after)) for unit in abreast(works, 2)]
    [(True, []), (False, [0]), (False, [0])]
    """
    weights = Weights(works[0].suite) if works else None
    needed: dict[str, int] = {}
    made: list[Work] = []
    loads: list[Load] = []
    for work in works:
        name = work.cells[0].teacher
        if name and name not in needed and (length := _length(work, name)):
            assert weights is not None
            needed[name] = len(made)
            made.append(replace(work, cells=work.cells[:1], teacher_only=True, assisting=False))
            loads.append(weights.teacher(name, length))
    for work in works:
        assert weights is not None
        after = [needed[work.cells[0].teacher]] if work.cells[0].teacher in needed else []
        asked = {cell.assistant for cell in work.cells if cell.assistant is not None}
        after += [place for place, other in enumerate(made) if other.assisting and asked & set(other.cells)]
        made.append(work)
        loads.append(replace(weights.load(work.cells), after=tuple(after)))
    return _units(made, loads, spread(loads, workers))


def _length(work: Work, name: str) -> int:
    """Epochs of a teacher that is still to be trained; 0: it is there."""
    wanted = teachers.recipe(work.suite, name, work.epochs, work.limit_train)
    stored = teachers.there(work.home / "teachers", work.suite, name, wanted)
    return int(wanted["epochs"]) if stored is None else 0


def _units(works: Sequence[Work], loads: Sequence[Load], parts: Sequence[Sequence[tuple[int, ...]]]) -> list[Unit]:
    ranks = ranked(loads)
    numbers: list[list[int]] = []  # of each work, its units
    units: list[Unit] = []
    for work, load, places, rank in zip(works, loads, parts, ranks, strict=True):
        after = frozenset(number for before in load.after for number in numbers[before])
        numbers.append([])
        for part in places:
            numbers[-1].append(len(units))
            some = work if work.teacher_only else replace(work, cells=tuple(work.cells[place] for place in part))
            own = Load(tuple(load.lanes[place] for place in part), load.shared)
            units.append(Unit(len(units), some, own, after, rank - load.weight + own.weight))
    return units
