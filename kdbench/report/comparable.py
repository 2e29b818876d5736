"""Whether runs are those of the suite whose name they have: published numbers stand beside no others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kdbench.report.escape import plain
from kdbench.report.select import Selection
from kdbench.suites import Suite

#: Facts of a recipe that change no student, or stand elsewhere.
_APART = {"eval_every", "image_size"}


def departures(selection: Selection, suite: Suite) -> list[str]:
    """In what runs differ from a suite: its data, its length or its recipe, a few words each.

    A fact that a record of an older kdbench does not have is none that differs.
    """
    found: dict[str, None] = {}
    if selection.dataset != suite.dataset:
        found[f"data {selection.dataset}, not {suite.dataset}"] = None
    if selection.epochs != suite.recipe.epochs:
        found[f"epochs {selection.epochs}, not {suite.recipe.epochs}"] = None
    for run in selection.finished:
        its, usual = run.settings.recipe, suite.recipe.facts_for(run.student, selection.epochs)
        for name in sorted(its.keys() - _APART):
            if _plain(its[name]) != _plain(usual.get(name, _default(suite, name))):
                found[f"{name} {its[name]}, not {usual.get(name, _default(suite, name))}"] = None
    return list(found)


def beside(
    selection: Selection,
    suite: Suite | None,
    published: Mapping[Any, Any],
    standing: Mapping[Any, Any],
    notes: list[str],
) -> tuple[Mapping[Any, Any], Mapping[Any, Any]]:
    """The published numbers that may stand beside these runs; a note where there were some and none may.

    Args:
        selection: the runs.
        suite: that of their name; None: it is not known, and they are taken at their word.
        published: of the suite's own table.
        standing: what else is reported of its pairs.
        notes: those of the report.
    """
    if suite is None or selection.quick or not (published or standing):
        return published, standing
    if found := departures(selection, suite):
        notes.append(
            f"No published number of suite {plain(suite.name, 60)} stands beside these runs, which depart from it:"
            f" {plain('; '.join(found[:4]), 300)}"
        )
        return {}, {}
    if selection.convention != suite.convention:
        notes.append(
            f"The published table of suite {plain(suite.name, 60)} is of loss convention {plain(suite.convention, 40)},"
            " these runs are not: its numbers do not stand beside them"
        )
        return {key: one for key, one in published.items() if key[2] == "student"}, standing
    return published, standing


def _default(suite: Suite, name: str) -> Any:
    """What a recipe that says nothing of a fact has."""
    return getattr(suite.recipe, name, None)


def _plain(value: Any) -> str:
    return json.dumps(value, default=str)
