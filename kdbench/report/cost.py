"""What a method costs, as far as somebody measured it under one condition.

A run's own seconds and memory are no cost of its method: lanes that train together share the machine, and rows
of different days stand on different ones. So nothing is shown but what is handed in here, and only rows
of one pair and one condition are compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from kdbench.report.board import Board, Line
from kdbench.report.escape import plain
from kdbench.report.items import NONE, Item, Row, Table
from kdbench.utils.wording import count

UNKNOWN = (
    "no costs of methods are shown, because none were measured under one condition; the seconds of a run are those of"
    " all lanes of its group, and stand in the CSV of runs alone"
)


class Cost(NamedTuple):
    """What one training step with a method needs beside the plain student's step; None where it was not measured.

    >>> one = Cost("crd", "resnet56:resnet20", "AMD EPYC, torch 2.14, batch 64, 1 thread", 12.5, 51.6, 16_512, 41_000)
    >>> f"{one.method}: {one.extra_ms} ms a step on {one.pair}"
    'crd: 12.5 ms a step on resnet56:resnet20'
    """

    method: str
    pair: str  # teacher:student that it was measured on
    condition: str  # hardware, versions, batch and threads, as a sentence would name them
    extra_ms: float | None
    extra_mb: float | None
    params: int | None  # trained beside the student's
    macs: int | None  # multiply-accumulates per image


Group = tuple[str, str]  # pair, condition


def groups(board: Board, costs: Sequence[Cost]) -> dict[Group, list[tuple[Line, Cost]]]:
    """Lines with their costs, by what was measured together, the largest group first.

    A method with values of its own (``semckd[beta=200]``) costs what the method costs.
    """
    found: dict[Group, dict[str, Cost]] = {}
    for one in costs:
        found.setdefault((one.pair, one.condition), {})[one.method] = one
    matched = {}
    for group, own in found.items():
        rows = [(line, cost) for line in board.shown if (cost := own.get(line.label) or own.get(_name(line.label)))]
        if rows:
            matched[group] = rows
    return dict(sorted(matched.items(), key=lambda item: (-len(item[1]), item[0])))


def tables(board: Board, costs: Sequence[Cost]) -> list[Table]:
    """One table for each pair and condition."""
    made = []
    for number, ((pair, condition), rows) in enumerate(groups(board, costs).items()):
        made.append(
            Table(
                "cost" if not number else f"cost-{number + 1}",
                "Cost of a step, beside the plain student's",
                ["method", "time (ms)", "memory (MB)", "parameters", "MACs per image"],
                [
                    Row(
                        (
                            Item(line.shown, line.label.lower()),
                            _item(cost.extra_ms, ".2f"),
                            _item(cost.extra_mb, ".1f"),
                            _item(cost.params, ",.0f"),
                            _item(cost.macs, ",.0f"),
                        ),
                        line.kind,
                    )
                    for line, cost in rows
                ],
                [f"Measured on {plain(pair, 80)}, {plain(condition, 200)}; n = {count(len(rows), 'method')}."],
                caption=f"Cost of a step beside the plain student's, {plain(pair, 80)}, {plain(condition, 120)}.",
            )
        )
    return made


def _name(label: str) -> str:
    return label.partition("[")[0].partition("@")[0]


def _item(value: float | None, form: str) -> Item:
    return Item(NONE) if value is None else Item(f"{value:{form}}", value)
