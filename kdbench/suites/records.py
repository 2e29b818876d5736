"""What papers report of a pair, whatever their method, and in what their recipes depart from the suite's."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping

from kdbench.suites._files import rows
from kdbench.suites.published_table import Standing, read_number
from kdbench.suites.suite import Suite


def records_to_beat(suite: Suite) -> dict[tuple[str, str], list[Standing]]:
    """(teacher, student) -> what is reported, the best first; empty where the suite names no file of it.

    The same recipe means the same epochs, batch, learning rate, crops, teacher and an unchanged student.
    Nearly all of them rest on the best test epoch, with weights that were chosen on the test set.

    >>> from kdbench import suites
    >>> best_comparable(records_to_beat(suites.load("crd"))["resnet56", "resnet20"]).method
    'DKD+LS'

    Raises:
        ValueError: the file is not there or not readable.
    """
    if suite.records is None:
        return {}
    found: dict[tuple[str, str], list[Standing]] = {}
    try:
        for row in rows(suite._home, suite.records):
            more = (row["departs"].strip(), row.get("spec") or "", row.get("convention") or "")
            one = Standing(row["method"], read_number(row), *more)
            found.setdefault((row["teacher"], row["student"]), []).append(one)
    except (OSError, KeyError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise ValueError(f"the records {suite.records} of suite {suite.name}: {error}") from error
    return {pair: sorted(ones, key=lambda one: -one.number.mean) for pair, ones in found.items()}


def best_comparable(standing: Iterable[Standing]) -> Standing | None:
    """The highest of those with the suite's own recipe.

    >>> from kdbench import suites
    >>> found = records_to_beat(suites.load("crd"))["resnet56", "resnet20"]
    >>> best_comparable(found).departs
    ''
    >>> best_comparable([]) is None
    True
    """
    same = [one for one in standing if not one.departs]
    return max(same, key=lambda one: one.number.mean, default=None)


Records = Mapping[tuple[str, str], list[Standing]]
