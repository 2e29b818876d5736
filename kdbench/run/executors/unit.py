"""What an executor is given: pieces of work in an order, each with what must have ended before it."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from kdbench.run.executors.spread import Load, cut
from kdbench.run.group import Work
from kdbench.run.outcome import Done, Emit


@dataclass(frozen=True)
class Unit:
    """A group of cells, a part of one, or a teacher that several of them need."""

    number: int
    work: Work
    load: Load = field(default_factory=lambda: Load(()))  # what its cells take, in any measure; see there
    after: frozenset[int] = frozenset()  # numbers of units that must have ended
    rank: float = 0.0  # the higher, the sooner it is begun
    tries: int = 0  # workers that were lost over it

    def parts(self, count: int) -> list[Work]:
        """Its work in so many parts, at most one for each cell; the records of all are those of the whole."""
        cells, places = self.work.cells, cut(self.load, count)
        if len(self.load.lanes) != len(cells):
            places = cut(Load((1.0,) * len(cells)), count)
        return [replace(self.work, cells=tuple(cells[place] for place in part)) for part in places]


class Executor(Protocol):
    """Does units. Closing what ``run`` returns ends everything under way, which is resumed by the next run."""

    def run(self, units: Sequence[Unit], emit: Emit) -> Generator[tuple[Unit, Done], None, None]:
        """What came of each unit, as they end.

        Raises:
            ValueError: no worker can be had.
        """
