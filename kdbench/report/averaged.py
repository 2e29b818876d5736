"""Averaged weights beside the raw ones: what ``recipe.ema`` adds to each method, seed by seed."""

from __future__ import annotations

import math

from kdbench.record import Record
from kdbench.report import facts, stats
from kdbench.report.board import Board, Line
from kdbench.report.items import Item, Row, Table, gain_item, one_line, p_words, spread_item, sure
from kdbench.report.stats import Gain
from kdbench.report.teacherless import Pair

FIELD = "ema_top1_last"


def table(board: Board) -> Table:
    """A row for each method on a pair that kept averaged weights; no rows where none did."""
    places = [(line, pair) for line in board.shown for pair in board.pairs if line.cells[pair].values(FIELD)]
    gains = [_gain(line, pair) for line, pair in places]
    corrected = stats.holm([gain and gain.p for gain in gains])
    rows = [
        Row(
            (
                Item(f"{line.shown}: {one_line(pair)}", line.label.lower()),
                spread_item(line.cells[pair].spread("top1_last")),
                spread_item(line.cells[pair].spread(FIELD)),
                gain_item(gain, p=p),
                Item(p_words(p), p, best=sure(p)),
            ),
            line.kind,
        )
        for (line, pair), gain, p in zip(places, gains, corrected, strict=True)
    ]
    decays = sorted({f"{one.settings.recipe['ema']:g}" for one in board.selection.finished if _decay(one)})
    notes = [
        "Top-1 (%) of the last epoch: of the weights as they were trained, and of their running average"
        + (f" (decay {' or '.join(decays)})" if decays else "")
        + f", {facts.seeds(board)}; paired difference with its 95% interval, p corrected for the number of rows (Holm)."
        " Ranks, gains and the oracle are of the raw weights, with one average for all methods it is no method's merit."
    ]
    return Table(
        "averaged",
        "Averaged weights",
        ["method: pair", "raw", "averaged", "averaged - raw", "p (Holm)"],
        rows,
        notes,
        caption=f"Top-1 (%) of raw and of averaged weights, {facts.seeds(board)}." if rows else "",
    )


def _gain(line: Line, pair: Pair) -> Gain | None:
    apart = {
        one.seed: one.ema_top1_last - one.top1_last
        for one in line.cells[pair].runs
        if one.ema_top1_last is not None and one.top1_last is not None and math.isfinite(one.ema_top1_last)
    }
    return stats.gain([apart])


def _decay(one: Record) -> bool:
    found = one.settings.recipe.get("ema")
    return isinstance(found, int | float) and bool(found)
