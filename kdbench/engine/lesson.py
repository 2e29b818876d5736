"""The teacher of one epoch of the main stage: its table where that can answer, itself where it must."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kdbench.distiller import SEES, Outputs
from kdbench.engine.lane import Lane
from kdbench.engine.table import TeacherTable


def widest(lanes: Sequence[Lane]) -> str:
    """The most that any of these lanes reads of the teacher, as ``Distiller.sees``."""
    read = [lane.method.sees for lane in lanes if lane.method.needs_teacher]
    return max((sees if sees in SEES else "maps" for sees in read), key=SEES.index, default="logits")


class Lesson:
    """The teacher over one epoch: from the table where it can be, live where it must be.

    Entries that are missing are asked for in whole batches, a little ahead of their turn.
    """

    def __init__(self, table: TeacherTable, epoch: int, sees: str) -> None:
        self.table, self.sees = table, sees
        self._rows = table.rows(epoch)
        self._kept = table.serves(sees)
        self._left = table.missing(self._rows, sees) if self._kept else self._rows[:0]

    def __call__(self, number: int, image: Tensor) -> Outputs:
        """The teacher's outputs on batch ``number`` of the epoch, which is ``image``."""
        first = number * self.table.batch
        end = first + len(image)
        rows = self._rows[first:end]
        whole = len(image) == self.table.batch or self.table.tail_alike
        if self._kept and whole:
            while self.table.fills and len(self._left) and self._left[0] < end:
                some, self._left = self._left[: self.table.batch], self._left[self.table.batch :]
                self.table.fill(self._rows[some])
            kept = self.table.answers(rows, self.sees)
            if kept is not None:
                return kept
        seen = self.table.look(image)
        if self.table.fills and whole:
            self.table.keep(rows, {"logits": seen.logits, "pooled": seen.pooled})
        return seen
