"""The figures; each takes the board and gives a drawing, or None where there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdbench.report import compare, facts, stats
from kdbench.report.board import STUDENT, Board, Line
from kdbench.report.escape import by_line, plain
from kdbench.report.items import pair_name
from kdbench.report.select import Pair
from kdbench.report.style import ACCENT, COLOURS, DIM, GOOD, INK, MARKERS, PALE, SOFT, canvas, drawing, readable_on

PER_ROW = 5
MOST_CURVES = len(COLOURS)
MOST_LINES, MOST_PAIRS = 60, 40  # in one figure; the tables hold all


def figures(board: Board) -> dict[str, Figure]:
    """Every figure that there is something to draw for, by the stem of its file."""
    drawers: dict[str, Callable[[Board], Figure | None]] = {
        "leaderboard": leaderboard,
        "heatmap": heatmap,
        "ranks": ranks,
        "curves": curves,
    }
    with drawing():
        return {name: figure for name, draw in drawers.items() if (figure := draw(board)) is not None}


def leaderboard(board: Board) -> Figure | None:
    """Accuracy per method and pair: a dot per seed, the mean and its interval."""
    lines, pairs, cut = _within(board, [line for line in board.shown if line.mean() is not None])
    pairs = [pair for pair in pairs if any(line.cells[pair].by_seed for line in lines)]
    if not pairs:
        return None
    rows, columns = _panels(len(pairs))
    size = (max(6.4, 1.9 + 2.35 * columns), 1.25 + rows * (0.75 + 0.235 * len(lines)))
    figure = canvas(
        *size,
        facts.title(board.selection) + _quick(board),
        f"Top-1 (%), {facts.RULE_WORDS[board.rule]}. Dots: seeds. Bar: mean and 95% interval. Dashed: plain student."
        " Blue: highest mean." + _star(lines) + cut,
        facts.footer(board),
    )
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axis, pair in zip(axes.flat, pairs, strict=False):
        _panel(axis, board, lines, pair)
    for axis in axes.flat[len(pairs) :]:
        axis.set_visible(False)
    axes[0, 0].set_yticks(range(len(lines)), [_name(line) for line in lines])
    axes[0, 0].set_ylim(len(lines) - 0.4, -0.6)
    return figure


def _panel(axis: Axes, board: Board, lines: list[Line], pair: Pair) -> None:
    teacher = board.teacher_top1(pair)
    axis.set_title(_title(pair), fontsize=8.5)
    if teacher is not None:
        axis.annotate(
            f"teacher {teacher:.2f}",
            (1, 1),
            (0, 3.5),
            xycoords="axes fraction",
            textcoords="offset points",
            ha="right",
            va="bottom",
            fontsize=7,
            color=SOFT,
        )
    spreads = {line.label: found for line in lines if (found := line.cells[pair].spread())}
    ranked = [line for line in board.everything if line.kind == "ranked"]
    top = max((found.mean for line in ranked if (found := line.cells[pair].spread())), default=None)
    values = [value for line in lines for value in line.cells[pair].values()]
    pad = max(0.35 * (max(values) - min(values)), 0.2)
    axis.hlines(range(len(lines)), 0, 1, color=PALE, linewidth=0.6, zorder=0, transform=axis.get_yaxis_transform())
    bars: list[list[tuple[float, float]]] = []
    bar_colours, dots, dot_colours, means = [], [], [], []
    for place, line in enumerate(lines):
        cell = line.cells[pair]
        found = spreads.get(line.label)
        if found is None:
            _empty(axis, place, cell.status)
            continue
        colour = GOOD if found.mean == top and line.kind == "ranked" else INK
        if found.half is not None:
            bars.append([(found.mean - found.half, place), (found.mean + found.half, place)])
            bar_colours.append(colour)
        dots += [(value, place) for value in cell.values()]
        dot_colours += [colour] * found.n
        means.append((found.mean, place, colour))
    axis.add_collection(LineCollection(bars, colors=bar_colours, linewidths=1.6, alpha=0.45), autolim=False)
    xs, ys = zip(*dots, strict=True)
    axis.scatter(xs, ys, s=13, color=dot_colours, alpha=0.55, linewidths=0, zorder=3)
    for colour in sorted({colour for _, _, colour in means}):
        own = [(mean, place) for mean, place, one in means if one == colour]
        axis.plot(*zip(*own, strict=True), ls="", marker="|", markersize=9, markeredgewidth=2, color=colour, zorder=4)
    student = spreads.get(STUDENT)
    if student is not None:
        axis.axvline(student.mean, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    _class_border(axis, lines)
    low, high = max(min(values) - pad, -0.3), min(max(values) + pad, 100.3)  # a mark at the border stays whole
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
    axis.tick_params(axis="x", labelsize=7.5)
    axis.spines["left"].set_visible(False)


def _empty(axis: Axes, place: int, status: str) -> None:
    axis.annotate(
        {"unsupported": "n/a", "failed": "failed", "done": "-"}.get(status, "not run"),
        (0.5, place),
        xycoords=("axes fraction", "data"),
        ha="center",
        va="center",
        color=SOFT,
        fontsize=7.5,
        style="italic",
        bbox={"boxstyle": "square,pad=0.15", "fc": "w", "ec": "none"},
    )


def heatmap(board: Board) -> Figure | None:
    """Gain over the baseline for each method and pair."""
    lines, pairs, cut = _within(board, [line for line in board.shown if line.gain is not None])
    if not lines:
        return None
    gains = {(line.label, pair): board.cell_gain(line, pair) for line in lines for pair in pairs}
    values = np.array(
        [[found.mean if (found := gains[line.label, pair]) else np.nan for pair in pairs] for line in lines]
    )
    size = (max(5.6, 2.3 + _wide(pairs) * len(pairs)), 1.6 + 0.34 * len(lines))
    figure = canvas(
        *size,
        f"Gain over {plain(board.baseline, 60)}, percentage points" + _quick(board),
        "Mean paired difference over seeds. Bold: differs from zero at 5%, corrected for all"
        f" {sum(p is not None for p in board.cell_p.values())} cells (Holm)." + _star(lines) + cut,
        facts.footer(board),
    )
    axis = figure.subplots()
    limit = stats.colour_limit(values[np.isfinite(values)].tolist())
    image = axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for row, line in enumerate(lines):
        for column, pair in enumerate(pairs):
            found = gains[line.label, pair]
            if found is None:
                words = {"unsupported": "n/a", "failed": "failed"}
                axis.add_patch(_blank(column, row))
                axis.text(
                    column,
                    row,
                    words.get(line.cells[pair].status, "-"),
                    ha="center",
                    va="center",
                    fontsize=7.5,
                    color=SOFT,
                    style="italic",
                )
                continue
            shade = image.to_rgba(np.array([found.mean]))[0]
            axis.text(
                column,
                row,
                f"{found.mean:+.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color=readable_on(tuple(shade[:3])),
                weight="bold" if _below(board.cell_p.get((line.label, pair))) else "normal",
            )
    axis.set_xticks(range(len(pairs)), [_title(pair) for pair in pairs], fontsize=8)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_yticks(range(len(lines)), [_name(line) for line in lines])
    axis.set_xticks(np.arange(len(pairs) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(lines) + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="minor", length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    _class_border(axis, lines)
    bar = figure.colorbar(image, ax=axis, fraction=0.03, pad=0.015, extend="both")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5)
    return figure


def ranks(board: Board) -> Figure | None:
    """Average ranks with their intervals, and what the Nemenyi test tells apart; none without both."""
    told = compare.separation(board)
    lines, _, cut = _within(board, board.compared)
    intervals = any(line.rank and line.rank.low is not None for line in lines)
    if len(lines) < 3 or told is None or not (intervals or told.distance):
        return None
    bars = f"Bars: 95% interval, {facts.RESAMPLED}. " if intervals else ""
    said = f"Friedman p = {told.friedman:.2g}. " if told.friedman is not None else ""
    verdict = f"{told.sentence[0].upper()}{told.sentence[1:]}{', joined by brackets' if told.distance else ''}."
    figure = canvas(
        7.2,
        1.75 + 0.27 * len(lines),
        "Average rank, 1 is best" + _quick(board),
        f"{bars}{said}{verdict}{cut}",
        facts.footer(board),
    )
    axis = figure.subplots()
    means = [line.rank.mean for line in lines if line.rank]
    for place, line in enumerate(lines):
        assert line.rank is not None
        colour = GOOD if place == 0 else INK
        axis.axhline(place, color=PALE, linewidth=0.6, zorder=0)
        if line.rank.low is not None and line.rank.high is not None:
            axis.plot(
                [line.rank.low, line.rank.high],
                [place, place],
                color=colour,
                linewidth=2.2,
                alpha=0.4,
                solid_capstyle="butt",
            )
        axis.plot([line.rank.mean], [place], "o", color=colour, markersize=5.5)
        axis.annotate(
            f"{line.rank.mean:.2f}",
            (line.rank.mean, place),
            (0, 5),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            color=colour,
        )
    groups = _alike(means, told.distance) if told.distance else []
    for number, (first, last) in enumerate(groups):
        x = max(len(lines), *means) + 0.45 + 0.28 * number
        axis.plot([x, x], [first - 0.18, last + 0.18], color=ACCENT, linewidth=1.8, solid_capstyle="round")
    last = max(len(lines), *(math.ceil(line.rank.mean) for line in lines if line.rank))
    axis.set_xlim(0.6, last + 0.6 + 0.28 * len(groups))
    axis.set_xticks(range(1, last + 1, 1 + (last - 1) // 12))  # a dozen at most have room
    axis.set_yticks(range(len(lines)), [_name(line) for line in lines])
    axis.set_ylim(len(lines) - 0.5, -0.75)
    axis.spines["left"].set_visible(False)
    return figure


def _alike(means: list[float], distance: float) -> list[tuple[int, int]]:
    """Longest runs of sorted means that lie closer together than the distance."""
    groups: list[tuple[int, int]] = []
    for first in range(len(means)):
        last = max(place for place in range(len(means)) if means[place] - means[first] < distance)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


def curves(board: Board) -> Figure | None:
    """Test accuracy by epoch: the best ranked in colour, the others in grey."""
    lines, pairs, cut = _within(board, board.shown)
    total = board.selection.epochs
    zoomed = total >= 20  # before the first drop of the rate all curves look alike
    found = {(line.label, pair): _curve(line, pair, 0.48 * total * zoomed) for line in lines for pair in pairs}
    lines = [line for line in lines if any(found[line.label, pair] for pair in pairs)]
    pairs = [pair for pair in pairs if any(len(found[line.label, pair]) > 1 for line in lines)]
    if not pairs:
        return None
    bright = [line for line in lines if line.kind != "student"][:MOST_CURVES]
    rows, columns = _panels(len(pairs))
    half = " Second half of the training." if zoomed else ""
    grey = " Grey: the other methods." if len(lines) > len(bright) + 1 else ""
    figure = canvas(
        max(6.4, 0.8 + 2.9 * columns),
        1.5 + 2.35 * rows,
        "Test accuracy while training" + _quick(board),
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
                handles.setdefault(line.label, (drawn, _name(line)))
                if points[epochs[0]].n > 1:
                    ends = [points[epoch].low for epoch in epochs], [points[epoch].high for epoch in epochs]
                    axis.fill_between(epochs, *ends, color=look["color"], alpha=0.14, linewidth=0, zorder=0.5)
            late = [points[epoch].mean for epoch in epochs if epoch >= total * 2 / 3]
            lows.append(min(late if late and zoomed else values))
            highs.append(max(values))
        low, high = min(lows), max(highs)
        room = max(high - low, 0.5)
        axis.set_ylim(low - 0.12 * room, high + 0.08 * room)
        axis.set_title(_title(pair), fontsize=8.5)
        axis.grid(True, axis="y")
        axis.tick_params(labelsize=7.5)
        axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        if zoomed:
            axis.set_xlim(total / 2, total * 1.01)
    for axis in axes.flat[len(pairs) :]:
        axis.set_visible(False)
    for axis in axes[:, 0]:
        axis.set_ylabel("top-1 (%)")
    for column in range(columns):
        axis = axes[(len(pairs) - 1 - column) // columns, column]
        axis.set_xlabel("epoch")
        axis.tick_params(labelbottom=True)
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


def _below(p: float | None) -> bool:
    return p is not None and p < 1 - stats.LEVEL


def _within(board: Board, lines: list[Line]) -> tuple[list[Line], list[Pair], str]:
    """As many lines and pairs as one figure can hold, and words about the others."""
    pairs = board.pairs
    words = [
        f"the first {most} of {len(every)} {what}"
        for every, most, what in ((lines, MOST_LINES, "methods"), (pairs, MOST_PAIRS, "pairs"))
        if len(every) > most
    ]
    return lines[:MOST_LINES], pairs[:MOST_PAIRS], f" Shown: {', '.join(words)}." if words else ""


def _title(pair: Pair) -> str:
    return "\n".join(by_line(pair_name(pair), lambda line: plain(line, 24)))


def _wide(pairs: list[Pair]) -> float:
    """Inches of a column under its pair's name."""
    longest = max((len(line) for pair in pairs for line in _title(pair).split("\n")), default=0)
    return max(1.12, 0.2 + 0.068 * longest)


def _name(line: Line) -> str:
    return plain(line.shown, 32) + (" *" if line.kind == "modified" else "")


def _panels(count: int) -> tuple[int, int]:
    """Rows and columns of panels, as few empty ones as can be."""
    rows = math.ceil(count / PER_ROW)
    return rows, math.ceil(count / rows)


def _star(lines: list[Line]) -> str:
    return " *: changes the student at inference." if any(line.kind == "modified" for line in lines) else ""


def _class_border(axis: Axes, lines: list[Line]) -> None:
    """A line above the methods that change the student."""
    first = next((place for place, line in enumerate(lines) if line.kind == "modified"), None)
    if first:
        axis.axhline(first - 0.5, color=SOFT, linewidth=0.9, zorder=2)


def _blank(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="#f1f3f5", edgecolor="white", hatch=None, linewidth=1.5)


def _quick(board: Board) -> str:
    return "  (QUICK RUN, not comparable)" if board.selection.quick else ""
