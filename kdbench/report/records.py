"""Records to beat: a pair's best published number beside the best of this table, under the same choice of epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kdbench.report.board import RULES, Board, Line
from kdbench.report.escape import plain
from kdbench.report.items import NONE, Item, Row, Table, number, one_line, spread_item
from kdbench.report.stats import Spread
from kdbench.report.teacherless import Pair
from kdbench.suites import Standing, best_comparable

#: Numbers of other recipes that are shown for a pair.
MOST = 3
Records = Mapping[Pair, Sequence[Standing]]


def to_beat(board: Board, standing: Records) -> Table:
    """A row for every pair that has a published number of the suite's own recipe; none for quick runs."""
    header = ["pair", "record, same recipe", "of", "best here", "of", "delta", "higher, by another recipe"]
    table = Table("records", "Records to beat", header, [])
    if board.selection.quick:
        return table
    for pair in board.pairs:
        best = best_comparable(standing.get(pair, ()))
        if best is None:
            continue
        rule = RULES["last"] if best.number.rule == "last" else RULES["oracle"]  # where it is not told, the lenient one
        own = _own(board, pair, rule)
        higher = [one for one in standing[pair] if one.departs and one.number.mean > best.number.mean]
        highest = sorted(higher, key=lambda one: -one.number.mean)[:MOST]
        table.rows.append(_row(pair, best, own, highest))
    if table.rows:
        sources = sorted(
            {best.number.source for pair in board.pairs if (best := best_comparable(standing.get(pair, ())))}
        )
        table.notes.append(
            "The same recipe: epochs, batch, learning rate, crops, teacher, and a student that is not changed. The best"
            " here is of the epoch that the record's paper chose, of the best test epoch where it does not tell; nearly"
            " every record is of the best test epoch, with weights chosen on the test set."
            f" Sources: {plain('; '.join(sources), 600)}."
        )
        table.caption = "Best published top-1 (%) of each pair under the same recipe, and the best of this table."
    return table


def _own(board: Board, pair: Pair, rule: str) -> tuple[Line, Spread] | None:
    """The best method of the table that leaves the student as it is, shown or not."""
    lines = [line for line in board.everything if line.kind != "modified"]
    found = [(line, spread) for line in lines if (spread := line.cells[pair].spread(rule)) is not None]
    return max(found, key=lambda one: one[1].mean, default=None)


def _row(pair: Pair, best: Standing, own: tuple[Line, Spread] | None, higher: Sequence[Standing]) -> Row:
    paper = best.number
    delta = None if own is None else own[1].mean - paper.mean
    others = "; ".join(f"{one.number.mean:.2f} {one.method} ({one.departs})" for one in higher)
    return Row(
        (
            Item(one_line(pair), one_line(pair)),
            Item(number(paper.mean, paper.std, paper.n), paper.mean),
            Item(plain(best.method, 40), best.method.lower()),
            Item(NONE) if own is None else spread_item(own[1]),
            Item(NONE) if own is None else Item(own[0].shown, own[0].label.lower()),
            Item(NONE) if delta is None else Item(f"{delta:+.2f}", delta, shade=delta),
            Item(plain(others, 300) or NONE),
        )
    )
