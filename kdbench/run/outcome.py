"""What a run tells its user while it goes on, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from kdbench.engine import fit as engine
from kdbench.run.grid import Cell


class Watcher(engine.Watcher, Protocol):
    """What a run tells its user."""

    def note(self, sentence: str) -> None:
        """Something worth a line."""

    def begin(self, lane_steps: int) -> None:
        """The run begins; so many (lanes x batches) are ahead of it."""

    def group(self, title: str, lane_steps: int) -> None:
        """A group of lanes begins, with so many of them."""

    def skip(self, lane_steps: int) -> None:
        """So many were trained in an earlier run or will not be trained."""

    def cell(self, cell: Cell, status: str, sentence: str) -> None:
        """A cell is done, failed or unsupported."""


@dataclass
class Outcome:
    """What became of the cells that were asked for."""

    done: list[Cell] = field(default_factory=list)
    unsupported: list[Cell] = field(default_factory=list)
    failed: dict[Cell, str] = field(default_factory=dict)
    elsewhere: list[Cell] = field(default_factory=list)  # another process has them

    @property
    def exit_code(self) -> int:
        """0: every asked cell is there or refused by its method; 1: some is missing."""
        missing = self.failed or self.elsewhere or (self.unsupported and not self.done)
        return 1 if missing else 0


class Stop(Exception):
    """The run ends early with this sentence (--fail-fast, out of memory, disk full)."""
