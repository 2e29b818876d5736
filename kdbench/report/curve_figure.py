"""Accuracy by epoch, with bands over the seeds."""

from __future__ import annotations

from typing import Any, NamedTuple

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdbench.report import facts
from kdbench.report.board import Board, Line
from kdbench.report.panels import end_columns, grid_shape, line_name, pair_title, quick_words, within
from kdbench.report.style import COLOURS, DIM, INK, MARKERS, canvas
from kdbench.report.teacherless import Pair

MOST_CURVES = len(COLOURS)


def curves(board: Board) -> Figure | None:
    """Test accuracy by epoch: the best ranked in colour, the others in grey."""
    lines, pairs, cut = within(board, board.shown)
    total = board.selection.epochs
    zoomed = total >= 20  # before the first drop of the rate all curves look alike
    found = {(line.label, pair): _curve(line, pair, 0.48 * total * zoomed) for line in lines for pair in pairs}
    lines = [line for line in lines if any(found[line.label, pair] for pair in pairs)]
    pairs = [pair for pair in pairs if any(len(found[line.label, pair]) > 1 for line in lines)]
    if not pairs:
        return None
    bright = [line for line in lines if line.kind != "student"][:MOST_CURVES]
    rows, columns = grid_shape(len(pairs))
    half = " Second half of the training." if zoomed else ""
    grey = " Grey: the other methods." if len(lines) > len(bright) + 1 else ""
    figure = canvas(
        max(6.4, 0.8 + 2.9 * columns),
        1.5 + 2.35 * rows,
        "Test accuracy while training" + quick_words(board),
        f"Top-1 (%), mean over seeds; bands from the lowest to the highest seed.{half}{grey}{cut}",
        facts.footer(board),
    )
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
    handles: dict[str, Any] = {}
    for axis, pair in zip(axes.flat, pairs, strict=False):
        lows, highs = [], []
        for line in lines:
            points = found[line.label, pair]
            if not points:
                continue
            epochs = sorted(points)
            values = [points[epoch].mean for epoch in epochs]
            look = _look(line, bright)
            (drawn,) = axis.plot(epochs, values, **look)
            if line in bright or line.kind == "student":
                handles.setdefault(line.label, (drawn, line_name(line)))
                if points[epochs[0]].n > 1:
                    ends = [points[epoch].low for epoch in epochs], [points[epoch].high for epoch in epochs]
                    axis.fill_between(epochs, *ends, color=look["color"], alpha=0.14, linewidth=0, zorder=0.5)
            late = [points[epoch].mean for epoch in epochs if epoch >= total * 2 / 3]
            lows.append(min(late if late and zoomed else values))
            highs.append(max(values))
        low, high = min(lows), max(highs)
        room = max(high - low, 0.5)
        axis.set_ylim(low - 0.12 * room, high + 0.08 * room)
        axis.set_title(pair_title(pair), fontsize=8.5)
        axis.grid(True, axis="y")
        axis.tick_params(labelsize=7.5)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if zoomed:
            axis.set_xlim(total / 2, total * 1.01)
    for axis in axes[:, 0]:
        axis.set_ylabel("top-1 (%)")
    end_columns(axes, len(pairs), "epoch")
    shown = [handles[line.label] for line in lines if line.label in handles]
    figure.legend([one for one, _ in shown], [name for _, name in shown], loc="outside right center", fontsize=8)
    return figure


class _Epoch(NamedTuple):
    """Accuracy at one epoch over the seeds."""

    mean: float
    low: float
    high: float
    n: int


def _curve(line: Line, pair: Pair, start: float) -> dict[int, _Epoch]:
    """Epoch -> accuracy, from an epoch on; epochs that all seeds have, percentages alone."""
    runs = [
        {
            point.epoch: point.top1
            for point in run.curve
            if point.epoch >= start and point.top1 is not None and 0 <= point.top1 <= 100
        }
        for run in line.cells[pair].runs
    ]
    common = set.intersection(*map(set, runs)) if runs else set()
    found = {epoch: [run[epoch] for run in runs] for epoch in common}
    return {epoch: _Epoch(sum(own) / len(own), min(own), max(own), len(own)) for epoch, own in found.items()}


def _look(line: Line, bright: list[Line]) -> dict[str, Any]:
    if line.kind == "student":
        return {"color": INK, "linewidth": 1.2, "linestyle": (0, (4, 2)), "zorder": 4}
    if line not in bright:
        return {"color": DIM, "linewidth": 0.9, "zorder": 1}
    number = bright.index(line)
    return {
        "color": COLOURS[number],
        "linewidth": 1.3,
        "zorder": 3,
        "marker": MARKERS[number],
        "markersize": 3.2,
        "markevery": (0.02 * number + 0.02, 0.14),
    }
