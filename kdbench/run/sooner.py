"""By how much several workers end sooner than one, for an estimate."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from kdbench.run import grid
from kdbench.run.executors.spread import Load, makespan, spread
from kdbench.run.grid import Cell

#: Seconds of a group of cells: of its teacher's passes, and of all else.
Seconds = Callable[[Sequence[Cell]], tuple[float, float]]


def sooner(
    cells: Iterable[Cell], teachers: dict[str, float], seconds: Seconds, workers: int, at_once: int | None = None
) -> float:
    """How many times sooner: teachers first, groups cut where that helps, each part with a teacher pass of its own.

    Args:
        cells: that are trained.
        teachers: that are trained first, with their seconds.
        seconds: of cells that share a teacher pass.
        workers: side by side.
        at_once: of them, those that the machine has room for; None: all. More than these take their time from each
            other, and their groups are cut into more parts, each with its teacher pass: they can end later than one.

    >>> from kdbench.run.session import Request, resolve
    >>> job = resolve(Request("kd,at", "resnet20:resnet8", "digits", seeds="2"))
    >>> sooner(job.cells, {}, lambda cells: (0.0, float(len(cells))), workers=2)
    2.0
    >>> sooner(job.cells, {}, lambda cells: (0.0, float(len(cells))), workers=4, at_once=2)
    2.0
    """
    if workers < 2:
        return 1.0
    loads, places = [Load((length,)) for length in teachers.values()], {name: at for at, name in enumerate(teachers)}
    for group in grid.groups(cells):
        lanes = tuple(seconds([cell])[1] for cell in group)
        after = tuple(places[name] for name in {group[0].teacher} if name in places)
        loads.append(Load(lanes, seconds(group)[0], after))
    counts = [len(parts) for parts in spread(loads, workers)]
    work = sum(load.weight + (parts - 1) * load.shared for load, parts in zip(loads, counts, strict=True))
    last = max(makespan(loads, counts, workers), work / (at_once or workers))
    return sum(load.weight for load in loads) / last if last > 0 else 1.0
