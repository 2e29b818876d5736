"""The published table of a suite: numbers of papers, with their source, the epoch that they chose and their recipe."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import NamedTuple

from kdbench.suites._files import rows
from kdbench.suites.suite import Rule, Suite

#: What stands in a table beside methods.
PLAIN = ("student", "teacher")


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


class Standing(NamedTuple):
    """A published number, and what must be known before it is compared with another.

    >>> from kdbench import suites
    >>> table(suites.load("semckd"))["resnet32x4", "resnet8x4", "simkd"].departs
    "student keeps a projector and the teacher's classifier"
    """

    method: str  # in the field's words, as its source writes it
    number: Published
    departs: str  # in what its recipe departs from the suite's; "": in nothing that its source tells
    spec: str = ""  # in kdbench's words, as --methods takes it; "": no such method here, or its weights are not told
    convention: str = ""  # of its loss weights, crd or semckd; "": its own, or not told


Key = tuple[str, str, str]  # teacher, student, method


def table(suite: Suite) -> dict[Key, Standing]:
    """The suite's published table; empty where it has none.

    The method of a teacher's own accuracy is ``teacher``. Of the file's columns ``convention`` may be left out (all
    numbers have the suite's) and ``departs``; a rule that is left empty is one that nobody tells.

    Raises:
        ValueError: the table is not there or not readable.

    >>> from kdbench import suites
    >>> table(suites.load("imagenet"))["timm/resnet34", "timm/resnet18", "semckd"].departs
    '90 epochs'
    """
    if suite.published is None:
        return {}
    try:
        return {
            (row["teacher"], row["student"], row["method"]): Standing(
                row["method"],
                read_number(row),
                row.get("departs") or "",
                row["method"],
                row.get("convention", suite.convention) or "",
            )
            for row in rows(suite._home, suite.published)
        }
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise ValueError(f"the published table {suite.published} of suite {suite.name}: {error}") from error


def published(suite: Suite) -> dict[Key, Published]:
    """(teacher, student, method) -> the published number alone; see ``table``.

    >>> from kdbench import suites
    >>> published(suites.load("semckd"))["resnet32x4", "resnet8x4", "semckd"]
    Published(mean=76.23, std=0.04, n=None, source='SemCKD, AAAI 2021, table of feature maps', rule='best_test')
    """
    return {key: one.number for key, one in table(suite).items()}


def alike(suite: Suite) -> dict[Key, Published]:
    """The numbers whose loss weights have the suite's convention; the source says what else is otherwise.

    A number of which nobody tells the epoch has the suite's ``published_rule``, and its source says so.

    >>> from kdbench import suites
    >>> found = alike(suites.load("cub200"))["vgg13", "vgg8", "kd"]
    >>> found.rule, found.source
    ('best_test', 'SDD, Table 5 (epoch not told)')
    """
    return {
        key: one.number._replace(rule=one.number.rule or suite.published_rule, source=_source(one))
        for key, one in table(suite).items()
        if one.convention == suite.convention or one.method in PLAIN
    }


def _source(one: Standing) -> str:
    said = "; ".join(word for word in (one.departs, "" if one.number.rule else "epoch not told") if word)
    return f"{one.number.source} ({said})" if said else one.number.source


def read_number(row: Mapping[str, str]) -> Published:
    """The number of one row of such a table.

    Raises:
        KeyError, ValueError, TypeError: a column is missing, or holds what it cannot.
    """
    return Published(
        float(row["mean"]),
        float(row["std"]) if row["std"] else None,
        int(row["n"]) if row["n"] else None,
        row["source"],
        _rule(row["rule"]) if row["rule"] else None,
    )


def _rule(text: str) -> Rule:
    if text == "last":
        return "last"
    if text == "best_test":
        return "best_test"
    raise ValueError(f"rule is last or best_test, not {text!r}")
