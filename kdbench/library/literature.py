"""``kdbench list published`` as a frame."""

from __future__ import annotations

from os import PathLike, fspath
from typing import TYPE_CHECKING

from kdbench import suites

if TYPE_CHECKING:
    from kdbench.report.frames import DataFrame

COLUMNS = (
    *("dataset", "teacher", "student", "method", "spec", "convention"),
    *("mean", "std", "n", "rule", "departs", "source"),
)


def published(suite: str | PathLike[str] | None = None) -> DataFrame:
    """What papers report: a row for each published top-1 accuracy, in percent.

    Columns: dataset, teacher, student; method in its source's words, spec in kdbench's (empty where kdbench has no such
    method, or the source does not tell its weights); convention of the loss weights,
    crd or semckd (empty: its own, or not told); mean, std, n; rule, last or best_test (empty: not told which epoch);
    departs, in what the recipe is another (empty: in nothing that is told); source.

    Args:
        suite: only its data set and pairs: a name or a .toml file; None for all.

    Raises:
        ValueError: there is no such suite.

    >>> import kdbench
    >>> found = kdbench.published("crd")
    >>> same = found[(found.departs == "") & (found.teacher == "resnet56")]
    >>> same.loc[same["mean"].idxmax(), "method"], float(same["mean"].max())
    ('DKD+LS', 72.32)
    """
    from kdbench.report.frames import DataFrame

    named = fspath(suite) if isinstance(suite, PathLike) else suite
    rows = [
        {
            "dataset": dataset,
            "teacher": teacher,
            "student": student,
            "method": one.method,
            "spec": one.spec,
            "convention": one.convention,
            "mean": one.number.mean,
            "std": one.number.std,
            "n": one.number.n,
            "rule": one.number.rule or "",
            "departs": one.departs,
            "source": one.number.source,
        }
        for dataset, (teacher, student), one in suites.every_number(None if named is None else suites.load(named))
    ]
    frame = DataFrame(rows, columns=list(COLUMNS))
    return frame.astype({"mean": float, "std": float, "n": "Int64"})
