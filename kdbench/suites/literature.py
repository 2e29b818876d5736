"""Every published table of a data set: those that suites hold, and one of each source of what else is reported."""

from __future__ import annotations

from typing import NamedTuple

from kdbench.suites.published_table import PLAIN, Published, Standing, published, table
from kdbench.suites.records import records_to_beat
from kdbench.suites.suite import Suite, load, names

Pair = tuple[str, str]


class PublishedOf(NamedTuple):
    """A published table, with what must be known to compare oneself with it.

    >>> [(one.title, one.convention, len(one.numbers)) for one in published_on("cub200")]
    [('suite cub200', '', 39), ('SDD, Table 5', '', 10)]
    """

    title: str  # the suite that holds it, or its source
    convention: str  # of all its loss weights; "": of several, or not told
    numbers: dict[tuple[str, str, str], Published]  # (teacher, student, method): methods in kdbench's words


def reported(dataset: str) -> dict[Pair, list[Standing]]:
    """(teacher, student) -> what papers report beside the tables of the built-in suites, the best first.

    Raises:
        ValueError: a file is not there or not readable.

    >>> {one.spec for one in reported("cifar100")["resnet56", "resnet20"]} >= {"itrd", "crd+wttm"}
    True
    """
    files = {suite.records: suite for suite in map(load, names()) if suite.dataset == dataset and suite.records}
    found: dict[Pair, list[Standing]] = {}
    for suite in files.values():
        for pair, ones in records_to_beat(suite).items():
            found.setdefault(pair, []).extend(ones)
    return found


class Row(NamedTuple):
    """A published number, wherever it stands.

    >>> {row.dataset for row in every_number() if row.pair == ("vgg13", "vgg8")} == {"cifar100", "cub200"}
    True
    """

    dataset: str
    pair: Pair
    standing: Standing


def every_number(suite: Suite | None = None) -> list[Row]:
    """All published numbers but those of plain networks: of the built-in suites' tables, then what else is reported.

    Args:
        suite: only of its data set and pairs.

    Raises:
        ValueError: a file is not there or not readable.

    >>> from kdbench.suites.suite import load
    >>> found = every_number(load("crd"))
    >>> len({row.pair for row in found}), len(found) < len(every_number())
    (13, True)
    """
    known = list(map(load, names()))
    theirs = [] if suite is None or suite in known else [suite]  # a user's, whose numbers are its own
    found = [
        Row(one.dataset, (teacher, student), number)
        for one in known + theirs
        for (teacher, student, method), number in table(one).items()
        if method not in PLAIN
    ]
    for dataset in sorted({one.dataset for one in known}):
        found += [Row(dataset, pair, one) for pair, ones in reported(dataset).items() for one in ones]
    found += [
        Row(one.dataset, pair, row) for one in theirs for pair, rows in records_to_beat(one).items() for row in rows
    ]
    if suite is None:
        return found
    return [row for row in found if row.dataset == suite.dataset and row.pair in suite.pairs]


def published_on(dataset: str) -> list[PublishedOf]:
    """The published tables on one data set, those of suites first.

    Raises:
        ValueError: a table is not there or not readable.

    >>> [one.title for one in published_on("cifar100")][:2]
    ['suite crd', 'suite heterogeneous']
    """
    made = [
        PublishedOf(f"suite {suite.name}", _common(suite), numbers)
        for suite in map(load, names())
        if suite.dataset == dataset and (numbers := published(suite))
    ]
    sources: dict[str, list[tuple[Pair, Standing]]] = {}
    for pair, ones in reported(dataset).items():
        for one in ones:
            if one.spec:  # what was trained by another recipe is another table
                recipe = f", {one.departs}" if one.departs else ""
                sources.setdefault(f"{one.number.source}{recipe}", []).append((pair, one))
    for source, found in sorted(sources.items()):
        told = sorted({one.convention for _, one in found})
        both = [convention for convention in told if convention]
        if len(both) < 2:
            made.append(_table(source, told[0] if len(told) == 1 else "", found))
            continue
        for convention in both:  # a method may stand there once with KD's term and once without
            of = [(pair, one) for pair, one in found if one.convention in ("", convention)]
            made.append(_table(f"{source}, convention {convention}", convention, of))
    return made


def _common(suite: Suite) -> str:
    """The convention of all numbers of a suite's table; empty where they have several."""
    told = {one.convention for key, one in table(suite).items() if key[2] not in PLAIN}
    return told.pop() if len(told) == 1 else ""


def _table(title: str, convention: str, found: list[tuple[Pair, Standing]]) -> PublishedOf:
    return PublishedOf(title, convention, {(*pair, one.spec): one.number for pair, one in found})
