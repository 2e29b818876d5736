"""Reported and reproduced: what papers have for a row of the table, beside the row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.report import facts
from kdbench.report.board import RULES, Board, Line
from kdbench.report.escape import plain
from kdbench.report.items import Item, Row, Table, number, one_line, spread_item
from kdbench.report.teacherless import Pair
from kdbench.suites import Standing


def reproduction(
    board: Board, published: Mapping[tuple[str, str, str], Any], standing: Mapping[Pair, Sequence[Standing]]
) -> Table:
    """Reported, reproduced and difference, each under the paper's own choice of the epoch; none for quick runs.

    Args:
        board: the table.
        published: (teacher, student, method) -> the number of the suite's own published table.
        standing: what else is reported of a pair. Of these only such numbers count as were made by the suite's
            recipe and loss convention, of an epoch that is told.
    """
    header = ["method", "pair", "reported", "reproduced", "delta", "epoch of both", "our last epoch", "source"]
    table = Table("reproduction", "Reported and reproduced", header, [])
    if board.selection.quick:
        return table
    for line in board.shown:
        for pair in board.pairs:
            papers = [published[*pair, line.label]] if (*pair, line.label) in published else []
            papers += _elsewhere(board, line, standing.get(pair, ()))
            table.rows += [row for paper in papers if (row := _row(line, pair, paper)) is not None]
    if table.rows:
        sources = sorted({f"{row.items[-1].text}, {row.items[5].text} epoch" for row in table.rows})
        table.notes.append(f"Reported: {'; '.join(sources)}.")
        table.notes.append(
            "Reproduced follows the epoch rule of the paper's number, so that like is compared with"
            f" like; the ranking above uses the {facts.RULE_WORDS[board.rule]}."
        )
        table.caption = (
            "Reported and reproduced top-1 (%), under the paper's choice of the epoch."
            f" Reported: {plain('; '.join(sources), 200)}."
        )
    return table


def _elsewhere(board: Board, line: Line, standing: Sequence[Standing]) -> list[Any]:
    """The numbers of the row's method that its recipe, its convention and its epoch make comparable."""
    conventions = ("", board.selection.convention)
    return [
        one.number
        for one in standing
        if one.spec == line.label and not one.departs and one.number.rule and one.convention in conventions
    ]


def _row(line: Line, pair: Pair, paper: Any) -> Row | None:
    """None where the row has no number of this pair."""
    name = RULES["oracle"] if paper.rule == "best_test" else RULES["last"]
    own, last = line.cells[pair].spread(name), line.cells[pair].spread(RULES["last"])
    if own is None or last is None:
        return None
    delta = own.mean - paper.mean
    return Row(
        (
            Item(line.shown, line.label.lower()),
            Item(one_line(pair), one_line(pair)),
            Item(number(paper.mean, paper.std, paper.n), paper.mean),
            spread_item(own),
            Item(f"{delta:+.2f}", delta, shade=delta),
            Item(plain(paper.rule, 40).replace("_", " ")),
            spread_item(last),
            Item(plain(paper.source, 120)),
        ),
        line.kind,
    )
