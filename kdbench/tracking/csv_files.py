"""A CSV file per cell: ``<series>.csv``, a row per epoch."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from kdbench.tracking.tracker import Point
from kdbench.utils.files import atomic_write

#: The first column; the others are the values, in the order in which they are seen.
EPOCH = "epoch"
_EPOCH = re.compile("[0-9]{1,9}")


class CsvFiles:
    """Writes rows; a value that an epoch has not is an empty field.

    >>> files = CsvFiles(Path("track"))
    >>> files.point(Point("digits/kd", "kd", 1, {"lr": 0.05}))
    >>> files.point(Point("digits/kd", "kd", 2, {"lr": 0.05, "accuracy/test": 41.5}))
    >>> print(Path("track/digits/kd.csv").read_text().rstrip())
    epoch,lr,accuracy/test
    1,0.05,
    2,0.05,41.5
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._columns: dict[str, list[str]] = {}  # of the series that have been begun

    def point(self, point: Point) -> None:
        """See ``Tracker``."""
        path = self.folder / f"{point.series}.csv"
        row = {EPOCH: str(point.epoch)} | {name: repr(value) for name, value in point.values.items()}
        columns = self._columns.get(point.series)
        if columns is not None and set(row) <= set(columns):
            with path.open("a", encoding="utf-8", newline="") as file:
                csv.DictWriter(file, columns, lineterminator="\n").writerow(row)
            return
        before, columns = read(path)
        kept = [one for one in before if int(one[EPOCH]) < point.epoch]
        columns = list(dict.fromkeys([EPOCH, *columns, *row]))
        _write(path, columns, [*kept, row])
        self._columns[point.series] = columns

    def close(self) -> None:
        """See ``Tracker``."""


def read(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Rows that have an epoch, and the names of the columns; none where no such file lies.

    A last line that a kill has cut, and what is no row of this file, is left out.

    >>> read(Path("nothing.csv"))
    ([], [])
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return [], []
    reader = csv.DictReader(text[: text.rfind("\n") + 1].splitlines())
    columns = [name for name in reader.fieldnames or [] if name]
    rows = [{name: one[name] or "" for name in columns} for one in reader if set(columns) <= set(one)]
    return [one for one in rows if _EPOCH.fullmatch(one.get(EPOCH, ""))], columns


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    with atomic_write(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
