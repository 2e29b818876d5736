"""The figures; each takes the board and gives a drawing, or None where there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from kdbench.report import facts, stats
from kdbench.report.board import STUDENT, Board, Line
from kdbench.report.labels import label_points
from kdbench.report.select import Pair
from kdbench.report.style import ACCENT, COLOURS, DIM, GOOD, INK, MARKERS, PALE, RC, SOFT, canvas, readable_on
from kdbench.report.tables import one_line, pair_name

PER_ROW = 5
MOST_CURVES = len(COLOURS)
MOST_NAMES = 20  # in the cost figure; of more, those in the crowd go without


def figures(board: Board) -> dict[str, Figure]:
    """Every figure that there is something to draw for, by the stem of its file."""
    drawers: dict[str, Callable[[Board], Figure | None]] = {
        "leaderboard": leaderboard,
        "heatmap": heatmap,
        "ranks": ranks,
        "cost": cost,
        "curves": curves,
    }
    with rc_context(RC):
        return {name: figure for name, draw in drawers.items() if (figure := draw(board)) is not None}


def leaderboard(board: Board) -> Figure | None:
    """Accuracy per method and pair: a dot per seed, the mean and its interval."""
    lines = board.shown
    if not lines:
        return None
    pairs = [pair for pair in board.pairs if any(line.cells[pair].runs for line in lines)]
    rows, columns = _panels(len(pairs))
    size = (max(6.4, 1.9 + 2.35 * columns), 1.25 + rows * (0.75 + 0.235 * len(lines)))
    figure = canvas(
        *size,
        facts.title(board.selection) + _quick(board),
        "Top-1 (%). Dots: seeds. Bar: mean and 95% interval. Dashed: plain student. Blue: best mean." + _star(lines),
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
    axis.set_title(pair_name(pair), fontsize=8.5)
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
    top = max((spreads[line.label].mean for line in board.ranked if line.label in spreads), default=None)
    values = [value for line in lines for value in line.cells[pair].values()]
    pad = max(0.35 * (max(values) - min(values)), 0.2)
    for place, line in enumerate(lines):
        axis.axhline(place, color=PALE, linewidth=0.6, zorder=0)
        cell = line.cells[pair]
        found = spreads.get(line.label)
        if found is None:
            word = {"unsupported": "n/a", "failed": "failed"}.get(cell.status, "not run")
            axis.annotate(
                word,
                (0.5, place),
                xycoords=("axes fraction", "data"),
                ha="center",
                va="center",
                color=SOFT,
                fontsize=7.5,
                style="italic",
                bbox={"boxstyle": "square,pad=0.15", "fc": "w", "ec": "none"},
            )
            continue
        colour = GOOD if found.mean == top and line.kind == "ranked" else INK
        if found.half is not None:
            axis.plot(
                [found.mean - found.half, found.mean + found.half],
                [place, place],
                color=colour,
                linewidth=1.6,
                alpha=0.45,
                solid_capstyle="butt",
            )
        axis.scatter(cell.values(), [place] * found.n, s=13, color=colour, alpha=0.55, linewidths=0, zorder=3)
        axis.plot([found.mean], [place], marker="|", markersize=9, markeredgewidth=2, color=colour, zorder=4)
    student = spreads.get(STUDENT)
    if student is not None:
        axis.axvline(student.mean, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    _class_border(axis, lines)
    low, high = max(min(values) - pad, -0.3), min(max(values) + pad, 100.3)  # a mark at the border stays whole
    axis.set_xlim(low, high)
    axis.xaxis.set_major_locator(MaxNLocator(4, min_n_ticks=3))
    axis.tick_params(axis="x", labelsize=7.5)
    axis.spines["left"].set_visible(False)


def heatmap(board: Board) -> Figure | None:
    """Gain over the baseline for each method and pair."""
    lines = [line for line in board.shown if line.gain is not None]
    if not lines:
        return None
    gains = {(line.label, pair): board.cell_gain(line, pair) for line in lines for pair in board.pairs}
    values = np.array(
        [[found.mean if (found := gains[line.label, pair]) else np.nan for pair in board.pairs] for line in lines]
    )
    size = (max(5.6, 2.3 + 1.12 * len(board.pairs)), 1.6 + 0.34 * len(lines))
    figure = canvas(
        *size,
        f"Gain over {board.baseline}, percentage points" + _quick(board),
        "Mean paired difference over seeds. Bold: the 95% interval leaves out zero." + _star(lines),
        facts.footer(board),
    )
    axis = figure.subplots()
    limit = stats.colour_limit(values[np.isfinite(values)].tolist())
    image = axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for row, line in enumerate(lines):
        for column, pair in enumerate(board.pairs):
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
                weight="bold" if found.sure else "normal",
            )
    axis.set_xticks(range(len(board.pairs)), [pair_name(pair) for pair in board.pairs], fontsize=8)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_yticks(range(len(lines)), [_name(line) for line in lines])
    axis.set_xticks(np.arange(len(board.pairs) + 1) - 0.5, minor=True)
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
    """Average ranks with their intervals, and which methods the Nemenyi test does not tell apart."""
    lines = board.compared
    pairs = {pair for pair, _ in board.blocks}
    if len(lines) < 3 or len(board.blocks) < 2:
        return None
    # Seeds of one pair are no independent data sets; they are the blocks only where there is one pair.
    unit, blocks = ("pairs", len(pairs)) if len(pairs) > 1 else ("seeds", len(board.blocks))
    distance = stats.critical_difference(len(lines), blocks)
    table = [[found[line.label] for line in lines] for found in _blocks(board, unit)]
    p = stats.friedman(table)
    bars = "Bars: 95% bootstrap interval over (pair, seed). " if any(one.rank and one.rank.low for one in lines) else ""
    said = f"Friedman p = {p:.2g}. " if p is not None else ""
    figure = canvas(
        7.2,
        1.75 + 0.27 * len(lines),
        "Average rank, 1 is best" + _quick(board),
        f"{bars}{said}Brackets join methods that the Nemenyi test"
        f" does not tell apart (critical difference {distance:.2f} over {blocks} {unit}).",
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
    groups = _alike(means, distance)
    for number, (first, last) in enumerate(groups):
        x = len(lines) + 0.45 + 0.28 * number
        axis.plot([x, x], [first - 0.18, last + 0.18], color=ACCENT, linewidth=1.8, solid_capstyle="round")
    axis.set_xlim(0.6, len(lines) + 0.6 + 0.28 * len(groups))
    axis.set_xticks(range(1, len(lines) + 1, 1 + (len(lines) - 1) // 12))  # a dozen at most have room
    axis.set_yticks(range(len(lines)), [_name(line) for line in lines])
    axis.set_ylim(len(lines) - 0.5, -0.75)
    axis.spines["left"].set_visible(False)
    return figure


def _blocks(board: Board, unit: str) -> list[dict[str, float]]:
    if unit == "seeds":
        return list(board.blocks.values())
    found: dict[str, list[dict[str, float]]] = {}
    for (pair, _), values in board.blocks.items():
        found.setdefault(pair, []).append(values)
    return [{label: float(np.mean([one[label] for one in group])) for label in group[0]} for group in found.values()]


def _alike(means: list[float], distance: float) -> list[tuple[int, int]]:
    """Longest runs of sorted means that lie closer together than the distance."""
    groups: list[tuple[int, int]] = []
    for first in range(len(means)):
        last = max(place for place in range(len(means)) if means[place] - means[first] < distance)
        if last > first and (not groups or last > groups[-1][1]):
            groups.append((first, last))
    return groups


def cost(board: Board) -> Figure | None:
    """Accuracy against what it costs, over the pairs that all lines have."""
    lines = board.shown
    pairs = [pair for pair in board.pairs if all(line.cells[pair].runs for line in lines)]
    kinds = [
        (name, words, better)
        for name, words, better in (("group_seconds", "training time of a run and those beside it (s)", "less"),)
        if pairs and all(line.mean(name, pairs) is not None for line in lines)
    ]
    if not kinds or len(lines) < 2:
        return None
    over = one_line(pairs[0]) if len(pairs) == 1 else f"mean over {len(pairs)} pairs that all have"
    square = " Square: changes the student at inference." if any(line.kind == "modified" for line in lines) else ""
    crowd = " In the crowd without names: the table has them all." if len(lines) > MOST_NAMES else ""
    figure = canvas(
        1.6 + 4.4 * len(kinds),
        4.3 if len(lines) < 13 else 5.4,
        "Accuracy against cost" + _quick(board),
        f"Last epoch, {over}. Line: nothing is both cheaper and better.{square}{crowd}",
        facts.footer(board),
    )
    axes = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axis, (name, words, better) in zip(axes, kinds, strict=True):
        points = [(_measured(line, name, pairs), _measured(line, "top1_last", pairs)) for line in lines]
        front = _front(points, better)
        for line, point in zip(lines, points, strict=True):
            colour = SOFT if line.kind == "student" else GOOD if point in front else INK
            axis.plot(*point, marker="s" if line.kind == "modified" else "o", color=colour, markersize=5.5)
        axis.set_xlabel(words + (", less is better" if better == "less" else ", more is better"))
        axis.margins(0.16, 0.12)
        axis.grid(True)
        axis.xaxis.set_major_locator(MaxNLocator(5))
        axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if max(x for x, _ in points) > 20 else "{x:g}"))
        stairs = step(front, better)
        axis.plot(*zip(*stairs, strict=True), color=ACCENT, linewidth=1, alpha=0.7, zorder=1)
        named = [
            (point, line.shown)
            for point, line in zip(points, lines, strict=True)
            if len(lines) <= MOST_NAMES or line.kind != "ranked" or point in front or _alone(point, points)
        ]
        label_points(figure, axis, [point for point, _ in named], [name for _, name in named], stairs)
    axes[0].set_ylabel("top-1 (%)")
    return figure


def _alone(point: tuple[float, float], points: list[tuple[float, float]]) -> bool:
    """Whether a name beside this point would stand on no other point."""
    width, height = (max(one[axis] for one in points) - min(one[axis] for one in points) or 1.0 for axis in (0, 1))
    near = [one for one in points if abs(one[0] - point[0]) < 0.12 * width and abs(one[1] - point[1]) < 0.035 * height]
    return len(near) == 1


def _measured(line: Line, name: str, pairs: list[Pair]) -> float:
    value = line.mean(name, pairs)
    assert value is not None
    return value


def _front(points: list[tuple[float, float]], better: str) -> list[tuple[float, float]]:
    """Points that no other beats in both, by rising cost measure."""
    sign = 1 if better == "less" else -1
    front: list[tuple[float, float]] = []
    for point in sorted(set(points), key=lambda one: (sign * one[0], -one[1])):
        if not front or point[1] > front[-1][1]:
            front.append(point)
    return sorted(front)


def step(front: list[tuple[float, float]], better: str) -> list[tuple[float, float]]:
    """Corners of the staircase through the front."""
    corners = [front[0]]
    for before, after in pairwise(front):
        corners += [(after[0], before[1]) if better == "less" else (before[0], after[1]), after]
    return corners


def curves(board: Board) -> Figure | None:
    """Test accuracy by epoch: the best ranked in colour, the others in grey."""
    lines = [line for line in board.shown if any(_curve(line, pair) for pair in board.pairs)]
    pairs = [pair for pair in board.pairs if any(len(_curve(line, pair)) > 1 for line in lines)]
    if not pairs:
        return None
    bright = [line for line in lines if line.kind != "student"][:MOST_CURVES]
    rows, columns = _panels(len(pairs))
    total = board.selection.epochs
    zoomed = total >= 20  # before the first drop of the rate all curves look alike
    grey = " Grey: the other methods." if len(lines) > len(bright) + 1 else ""
    figure = canvas(
        max(6.4, 0.8 + 2.9 * columns),
        1.5 + 2.35 * rows,
        "Test accuracy while training" + _quick(board),
        "Top-1 (%), mean over seeds." + (" Second half of the training." if zoomed else "") + grey,
        facts.footer(board),
    )
    axes = figure.subplots(rows, columns, sharex=True, squeeze=False)
    handles: dict[str, Any] = {}
    for axis, pair in zip(axes.flat, pairs, strict=False):
        lows, highs = [], []
        for line in lines:
            points = _curve(line, pair)
            if not points:
                continue
            epochs = sorted(points)
            values = [points[epoch] for epoch in epochs]
            look = _look(line, bright)
            (drawn,) = axis.plot(epochs, values, **look)
            if line in bright or line.kind == "student":
                handles.setdefault(line.label, (drawn, line.shown))
            late = [value for epoch, value in points.items() if epoch >= total * 2 / 3]
            lows.append(min(late if late and zoomed else values))
            highs.append(max(values))
        low, high = min(lows), max(highs)
        room = max(high - low, 0.5)
        axis.set_ylim(low - 0.12 * room, high + 0.08 * room)
        axis.set_title(pair_name(pair), fontsize=8.5)
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


def _curve(line: Line, pair: Pair) -> dict[int, float]:
    """Epoch -> accuracy, mean over the seeds; epochs that all seeds have."""
    runs = [{point.epoch: point.top1 for point in run.curve if point.top1 is not None} for run in line.cells[pair].runs]
    common = set.intersection(*map(set, runs)) if runs else set()
    return {epoch: float(np.mean([run[epoch] for run in runs])) for epoch in common}


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


def _name(line: Line) -> str:
    return line.shown + (" *" if line.kind == "modified" else "")


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
