"""Validation accuracy against the weight's factor: how much a method's result hangs on its weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from statistics import geometric_mean
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from kdbench.report import facts
from kdbench.report.board import Board
from kdbench.report.escape import plain
from kdbench.report.items import count
from kdbench.report.panels import grid_shape, quick_words
from kdbench.report.style import COLOURS, INK, MARKERS, SOFT, canvas, drawing
from kdbench.report.tuned import MARK, factors, often
from kdbench.utils.tuning_file import Tuned

MOST_METHODS, MOST_LINES = 40, len(COLOURS)


class _Point(NamedTuple):
    factor: float
    mean: float | None  # None: a seed of it failed
    low: float
    high: float
    chosen: bool
    apart: str  # factors of parts that are not scaled together; the factor is then their geometric mean


def sensitivity(board: Board, chosen: Sequence[Tuned]) -> Figure | None:
    """A panel for each method, a line for each pair; None where nothing was tuned by a factor."""
    curves: dict[str, list[tuple[str, list[_Point]]]] = {}
    left: set[str] = set()
    for one in chosen:
        points = _points(one)
        if sum(point.mean is not None and not point.apart for point in points) > 1:
            curves.setdefault(one.method, []).append((one.pair, points))
        else:
            left.add(one.method)
    if not curves:
        return None
    methods = sorted(curves)[:MOST_METHODS]
    pairs = sorted({pair for method in methods for pair, _ in curves[method]})
    shown = pairs[:MOST_LINES]
    more = f" Shown: {MOST_LINES} of {count(len(pairs), 'pair')}." if len(pairs) > MOST_LINES else ""
    more += f" Shown: {MOST_METHODS} of {count(len(curves), 'method')}." if len(curves) > MOST_METHODS else ""
    if names := sorted(left - set(curves)):
        more += f" Not scaled by a factor, so not drawn: {', '.join(plain(name, 30) for name in names[:8])}."
    if any(point.apart for method in methods for _, points in curves[method] for point in points):
        more += " Hollow: weights by factors of their own, named in their order, at their geometric mean."
    rows, columns = grid_shape(len(methods))
    with drawing():
        figure = canvas(
            max(6.4, 2.4 + 2.2 * columns),
            1.6 + 2.1 * rows,
            "Validation accuracy against the weight" + quick_words(board),
            "Top-1 (%) on held-out training images, last epoch, mean over the tuning seeds; bars from the lowest to the"
            f" highest seed. Ring: chosen. Cross: failed. Vertical line: the published weight. {often(chosen)}{more}",
            _footer(board, chosen),
        )
        axes = figure.subplots(rows, columns, squeeze=False)
        handles: dict[str, Any] = {}
        for axis, method in zip(axes.flat, methods, strict=False):
            axis.set_title(_title(board, method), fontsize=8.5)
            _panel(axis, [(pair, points) for pair, points in curves[method] if pair in shown], shown, handles)
        for axis in axes.flat[len(methods) :]:
            axis.set_visible(False)
        for axis in axes[:, 0]:
            axis.set_ylabel("validation top-1 (%)", fontsize=8.5)
        for column in range(columns):
            axes[(len(methods) - 1 - column) // columns, column].set_xlabel(
                "factor on the published weight", fontsize=8.5
            )
        names = [pair for pair in shown if pair in handles]
        words = [plain(pair.replace(":", " → "), 60) for pair in names]
        figure.legend([handles[pair] for pair in names], words, loc="outside right center", fontsize=8)
    return figure


def _points(one: Tuned) -> list[_Point]:
    found = []
    for trial in one.trials:
        by = [factor for factor, _ in groupby(factors(one, trial))]
        values = [s.val_top1 for s in trial.scores if s.val_top1 is not None and math.isfinite(s.val_top1)]
        if by:
            ends = (min(values), max(values)) if values else (0.0, 0.0)
            chosen = bool(one.choice) and trial.values == one.choice
            apart = ", ".join(map(_fraction, by)) if len(by) > 1 else ""
            found.append(
                _Point(geometric_mean(by) if apart else by[0], trial.mean if values else None, *ends, chosen, apart)
            )
    return sorted(found, key=lambda point: point.factor)


def _title(board: Board, method: str) -> str:
    """The method as its line of the table is shown, without saying whose weights it has."""
    line = board.line(method) or board.line(method + MARK)
    return plain(method if line is None else line.shown.replace(MARK, "", 1), 40)


def _panel(axis: Axes, curves: list[tuple[str, list[_Point]]], pairs: list[str], handles: dict[str, Any]) -> None:
    axis.set_xscale("log")
    axis.axvline(1, color=SOFT, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
    failed, ends = [], []
    for pair, points in curves:
        number = pairs.index(pair)
        good = [point for point in points if point.mean is not None]
        look: dict[str, Any] = {
            "color": COLOURS[number],
            "marker": MARKERS[number],
            "markersize": 3.5,
            "linewidth": 1.2,
        }
        together, own = ([point for point in good if bool(point.apart) is apart] for apart in (False, True))
        (handles[pair],) = axis.plot(*_places(together), zorder=3, **look)
        axis.plot(*_places(own), zorder=3, fillstyle="none", **look | {"linewidth": 0})
        for point in own:
            axis.annotate(
                point.apart,
                (point.factor, point.mean or 0.0),
                (4, 3),
                textcoords="offset points",
                fontsize=6,
                color=INK,
            )
        xs = [point.factor for point in good]
        axis.vlines(xs, [p.low for p in good], [p.high for p in good], color=COLOURS[number], linewidth=0.9, alpha=0.6)
        if ring := [point for point in good if point.chosen]:
            axis.plot(*_places(ring), "o", markersize=9, fillstyle="none", color=INK, zorder=4, linewidth=0)
        failed += [(point.factor, number) for point in points if point.mean is None]
        ends += [end for point in good for end in (point.low, point.high)]
    low, high = min(ends), max(ends)
    room, below = max(high - low, 0.5), 0.07 * (1 + len({number for _, number in failed}))
    axis.set_ylim(low - (below + 0.05) * room, high + 0.1 * room)
    for by, number in failed:  # each pair on a line of its own
        place = sorted({other for _, other in failed}).index(number)
        axis.plot(
            [by], [low - 0.07 * (1 + place) * room], "x", color=COLOURS[number], markersize=5, zorder=3, clip_on=False
        )
    ticks = sorted({point.factor for _, points in curves for point in points if not point.apart})
    axis.xaxis.set_major_locator(FixedLocator(ticks))
    axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _fraction(value)))
    axis.tick_params(labelsize=7)
    axis.grid(True, axis="y")


def _places(points: Sequence[_Point]) -> tuple[list[float], list[float]]:
    return [point.factor for point in points], [point.mean or 0.0 for point in points]


def _fraction(by: float) -> str:
    """1/100, 1/3, 1, 3; 0.4, which is no such part."""
    part = round(1 / by) if by > 1e-6 else 0  # what is smaller is written as a number, too
    return f"1/{part}" if part > 1 and abs(part * by - 1) < 0.01 else f"{by:.3g}"


def _footer(board: Board, chosen: Sequence[Tuned]) -> str:
    budgets = sorted({plain(one.budget, 100) for one in chosen})
    held = sorted({f"{one.budget.validation:.0%}" for one in chosen})
    told = "; ".join(budgets[:2]) + (" and others" if len(budgets) > 2 else "")
    rest = facts.footer(board).split(" · ")[3:]
    return " · ".join([told, f"{', '.join(held)} of the training images held out", *filter(None, rest)])
