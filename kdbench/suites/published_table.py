"""The published table of a suite: numbers of papers, with their source and the epoch that they chose."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import NamedTuple

from kdbench.suites.suite import Rule, Suite


class Published(NamedTuple):
    """One published top-1 accuracy, in percent.

    >>> from kdbench import suites
    >>> found = published(suites.load("semckd"))["resnet32x4", "resnet8x4", "kd"]
    >>> found.mean, found.std, found.rule
    (74.42, 0.05, 'best_test')
    """

    mean: float
    std: float | None
    n: int | None  # runs behind it; None: not stated
    source: str
    rule: Rule | None  # of the epoch; None: not told


def published(suite: Suite) -> dict[tuple[str, str, str], Published]:
    """(teacher, student, method) -> the published number; empty where the suite has no table.

    The method of a teacher's own accuracy is ``teacher``.

    Raises:
        ValueError: the table is not there or not readable.

    >>> from kdbench import suites
    >>> published(suites.load("semckd"))["resnet32x4", "resnet8x4", "semckd"]
    Published(mean=76.23, std=0.04, n=None, source='SemCKD, AAAI 2021, table of feature maps', rule='best_test')
    """
    if suite.published is None:
        return {}
    file = suite._home / suite.published
    try:
        rows = list(csv.DictReader(file.read_text(encoding="utf-8").splitlines()))
        return {(row["teacher"], row["student"], row["method"]): read_number(row) for row in rows}
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"the published table {suite.published} of suite {suite.name}: {error}") from error


def read_number(row: Mapping[str, str], *, told: bool = True) -> Published:
    """The number of one row of such a table; ``told``: it must say which epoch.

    Raises:
        KeyError, ValueError, TypeError: a column is missing, or holds what it cannot.
    """
    return Published(
        float(row["mean"]),
        float(row["std"]) if row["std"] else None,
        int(row["n"]) if row["n"] else None,
        row["source"],
        _rule(row["rule"]) if told or row["rule"] else None,
    )


def _rule(text: str) -> Rule:
    if text == "last":
        return "last"
    if text == "best_test":
        return "best_test"
    raise ValueError(f"rule is last or best_test, not {text!r}")
