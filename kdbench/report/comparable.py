"""Whether runs are those of the suite whose name they have: published numbers stand beside no others."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from kdbench.report.escape import plain
from kdbench.report.select import Selection
from kdbench.report.teacherless import Pair
from kdbench.suites import Suite

#: Facts of a recipe that change no student, or stand elsewhere.
_APART = {"eval_every", "image_size"}


def departures(selection: Selection, suite: Suite) -> list[str]:
    """In what all runs differ from a suite: its data, its length, a few words each."""
    found = []
    if selection.dataset != suite.dataset:
        found.append(f"data {selection.dataset}, not {suite.dataset}")
    if selection.epochs != suite.recipe.epochs:
        found.append(f"epochs {selection.epochs}, not {suite.recipe.epochs}")
    return found


def otherwise(selection: Selection, suite: Suite) -> dict[Pair, list[str]]:
    """In what the runs of a pair were trained otherwise than in a suite, a few words each; other pairs are not there.

    A fact that a record of an older kdbench does not have is none that differs.
    """
    found: dict[Pair, dict[str, None]] = {}
    for (_, pair), cell in selection.runs.items():
        for run in cell:
            its, usual = run.settings.recipe, suite.recipe.facts_for(run.student, selection.epochs)
            for name in sorted(its.keys() - _APART):
                if _plain(its[name]) != _plain(want := usual.get(name, _default(suite, name))):
                    found.setdefault(pair, {})[f"{name} {its[name]}, not {want}"] = None
    return {pair: list(words) for pair, words in found.items()}


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
        published: of the suite's own table, by teacher, student and method.
        standing: what else is reported, by pair.
        notes: those of the report.
    """
    if suite is None or selection.quick or not (published or standing):
        return published, standing
    if found := departures(selection, suite):
        notes.append(_said(suite, "these runs", found))
        return {}, {}
    away = otherwise(selection, suite)
    for pair, words in away.items():
        notes.append(_said(suite, f"the runs on {':'.join(pair)}", words))
    published = {key: one for key, one in published.items() if key[:2] not in away}
    standing = {pair: ones for pair, ones in standing.items() if pair not in away}
    if selection.convention != suite.convention and published:
        notes.append(
            f"The published table of suite {plain(suite.name, 60)} is of loss convention {plain(suite.convention, 40)},"
            " these runs are not: its numbers do not stand beside them"
        )
        published = {key: one for key, one in published.items() if key[2] == "student"}
    return published, standing


def _said(suite: Suite, what: str, words: list[str]) -> str:
    return (
        f"No published number of suite {plain(suite.name, 60)} stands beside {plain(what, 120)}, which depart from it:"
        f" {plain('; '.join(words[:4]), 300)}"
    )


def _default(suite: Suite, name: str) -> Any:
    """What a recipe that says nothing of a fact has."""
    return getattr(suite.recipe, name, None)


def _plain(value: Any) -> str:
    return json.dumps(value, default=str)
