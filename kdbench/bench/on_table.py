"""One more method of a finished grid: the engine reads the teacher's outputs from a table that is ready."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from kdbench.bench.engine_side import Engine
from kdbench.bench.work import CROP_PADDING, FLIP, MEAN, STD
from kdbench.engine.fit import Setting
from kdbench.engine.teacher_cache.cache import TeacherTable
from kdbench.engine.teacher_cache.place import count_views
from kdbench.engine.teacher_cache.reader import widest
from kdbench.run import teacher_cache as tables


class NoTable(ValueError):
    """Why nothing can be measured; one sentence."""


@contextmanager
def taught(engine: Engine, steps: int, runs: int, folder: Path) -> Iterator[Callable[[], None]]:
    """What runs ``steps`` steps of the engine's lanes on a table made in ``folder``; ``runs`` times at most.

    The table is opened, checked and read as `kdbench run` does it, from its files, checksums included.
    Its entries for these runs are filled first, and they alone: the files are sparse.

    Raises:
        NoTable: there can be none of this teacher, device or folder.
        ValueError: the engine asked the live teacher in spite of it.
    """
    reads = widest(engine.lanes)
    if reads == "maps":
        raise NoTable("these methods read feature maps, which no table keeps")
    plain, images = engine.setting, engine.work.dataset()
    train = engine.steps(steps)
    recipe = {"batch_size": train.batch_size, "crop_padding": CROP_PADDING, "flip": FLIP, "mean": MEAN, "std": STD}
    said: list[str] = []

    def opened() -> AbstractContextManager[Setting]:
        return tables.taught(
            folder,
            engine.work.teacher_name,
            images,
            recipe,
            plain,
            train,
            engine.lanes,
            visits=count_views(CROP_PADDING, FLIP),
            note=said.append,
        )

    with opened() as setting:
        if setting.table is None:
            raise NoTable(said[-1])
        for epoch in range(engine.lanes[0].epoch, engine.lanes[0].epoch + runs):
            _fill(setting.table, epoch, reads)
    with opened() as setting:
        if setting.table is None:
            raise NoTable(said[-1])
        before = engine.asked

        def run() -> None:
            engine.run(steps)
            if engine.asked != before:
                raise ValueError(
                    f"bench cannot time {engine.lanes[0].key} on a table: the live teacher was asked"
                    f" {engine.asked - before} times while the clock ran"
                )

        engine.lend(setting)
        try:
            yield run
        finally:
            engine.lend(plain)


def _fill(table: TeacherTable, epoch: int, reads: str) -> None:
    rows = table.rows(epoch)
    missing = table.missing(rows, reads)
    for first in range(0, len(missing), table.batch):
        table.fill(rows[missing[first : first + table.batch]])
    if len(table.missing(rows, reads)):
        raise NoTable("the table could not be filled")
