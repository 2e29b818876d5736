"""One unit after the other, in this process."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from kdbench.data import Dataset
from kdbench.run.executors.unit import Unit
from kdbench.run.group import run_group
from kdbench.run.outcome import Done, Emit


class Here:
    """The executor of a single process.

    >>> list(Here(images=None).run([], print))
    []
    """

    def __init__(self, images: Dataset | None) -> None:
        self.images = images

    def run(self, units: Sequence[Unit], emit: Emit) -> Generator[tuple[Unit, Done], None, None]:
        """See ``Executor``."""
        for unit in units:
            yield unit, run_group(unit.work, emit, self.images)
