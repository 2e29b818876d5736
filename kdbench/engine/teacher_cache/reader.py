"""The teacher of one epoch of the main stage: its table where that can answer, itself where it must."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kdbench.distiller import READS, Outputs
from kdbench.engine.lane import Lane
from kdbench.engine.teacher_cache.cache import TeacherTable


def widest(lanes: Sequence[Lane]) -> str:
    """The most that any of these lanes reads of the teacher, as ``Distiller.reads``.

    >>> from kdbench.testing.examples import lanes
    >>> widest(lanes("kd")), widest(lanes("kd", "at"))
    ('logits', 'maps')
    """
    read = [lane.method.reads for lane in lanes if lane.method.needs_teacher]
    return max((reads if reads in READS else "maps" for reads in read), key=READS.index, default="logits")


class Lesson:
    """The teacher over one epoch: from the table where it can be, live where it must be.

    Entries that are missing are asked for in whole batches, a little ahead of their turn.
    """

    def __init__(self, table: TeacherTable, epoch: int, reads: str) -> None:
        self.table, self.reads = table, reads
        self._rows = table.rows(epoch)
        self._kept = table.serves(reads)
        self._left = table.missing(self._rows, reads) if self._kept else self._rows[:0]

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
            kept = self.table.answers(rows, self.reads)
            if kept is not None:
                return kept
        seen = self.table.look(image)
        if self.table.fills and whole:
            self.table.keep(rows, {"logits": seen.logits, "pooled": seen.pooled})
        return seen
