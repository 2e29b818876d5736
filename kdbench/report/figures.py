"""The figures; each takes the board and gives a drawing, or None where there is nothing to show."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdbench.report import compare, facts, mismatch, stats
from kdbench.report.board import STUDENT, Board, Line
from kdbench.report.curve_figure import curves
from kdbench.report.duel_figure import duels
from kdbench.report.escape import plain
from kdbench.report.panels import (
    class_border,
    column_width,
    grid_shape,
    line_name,
    pair_title,
    quick_words,
    star_words,
    within,
)
from kdbench.report.style import ACCENT, GOOD, INK, PALE, SOFT, canvas, drawing, readable_on
from kdbench.report.teacherless import Pair


def figures(board: Board) -> dict[str, Figure]:
    """Every figure that there is something to draw for, by the stem of its file."""
    drawers: dict[str, Callable[[Board], Figure | None]] = {
        "leaderboard": leaderboard,
        "heatmap": heatmap,
        "ranks": ranks,
        "duels": duels,
        "mismatch": mismatch.figure,
        "curves": curves,
    }
    with drawing():
        return {name: figure for name, draw in drawers.items() if (figure := draw(board)) is not None}


def leaderboard(board: Board) -> Figure | None:
    """Accuracy per method and pair: a dot per seed, the mean and its interval."""
    lines, pairs, cut = within(board, [line for line in board.shown if line.mean() is not None])
    pairs = [pair for pair in pairs if any(line.cells[pair].by_seed for line in lines)]
    if not pairs:
        return None
    rows, columns = grid_shape(len(pairs))
    size = (max(6.4, 1.9 + 2.35 * columns), 1.25 + rows * (0.75 + 0.235 * len(lines)))
    longer = any(_beyond(lines, pair) for pair in pairs)
    plain = any(line.label == STUDENT for line in lines)
    figure = canvas(
        *size,
        facts.title(board.selection) + quick_words(board),
        f"Top-1 (%), {facts.RULE_WORDS[board.rule]}. Dots: seeds. Bar: mean and 95% interval"
        f"{' (an arrowhead: it goes on)' * longer}.{' Dashed: plain student.' * plain} Blue: highest mean."
        + star_words(lines)
        + cut,
        facts.footer(board),
    )
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for axis, pair in zip(axes.flat, pairs, strict=False):
        _panel(axis, board, lines, pair)
    for axis in axes.flat[len(pairs) :]:
        axis.set_visible(False)
    axes[0, 0].set_yticks(range(len(lines)), [line_name(line) for line in lines])
    axes[0, 0].set_ylim(len(lines) - 0.4, -0.6)
    return figure


def _span(lines: list[Line], pair: Pair) -> tuple[float, float]:
    """Of a panel's axis: all seeds and some air. An interval of two seeds may be many times as wide."""
    values = [value for line in lines for value in line.cells[pair].values()]
    pad = max(0.35 * (max(values) - min(values)), 0.2)
    return max(min(values) - pad, -0.3), min(max(values) + pad, 100.3)  # a mark at the border stays whole


def _beyond(lines: list[Line], pair: Pair) -> list[tuple[float, int, str]]:
    """Where intervals leave a panel: the border, the line's place and the arrowhead that says so."""
    low, high = _span(lines, pair)
    ends = []
    for place, line in enumerate(lines):
        found = line.cells[pair].spread()
        if found is not None and found.half is not None:
            ends += [(low, place, "<")] if found.mean - found.half < low else []
            ends += [(high, place, ">")] if found.mean + found.half > high else []
    return ends


def _panel(axis: Axes, board: Board, lines: list[Line], pair: Pair) -> None:
    teacher = board.teacher_top1(pair)
    axis.set_title(pair_title(pair), fontsize=8.5)
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
    class_border(axis, lines)
    for border, place, head in _beyond(lines, pair):
        axis.plot([border], [place], ls="", marker=head, markersize=4.5, mew=0, color=SOFT, clip_on=False, zorder=5)
    axis.set_xlim(*_span(lines, pair))
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
    lines, pairs, cut = within(board, [line for line in board.shown if line.gain is not None])
    if not lines:
        return None
    gains = {(line.label, pair): board.cell_gain(line, pair) for line in lines for pair in pairs}
    values = np.array(
        [[found.mean if (found := gains[line.label, pair]) else np.nan for pair in pairs] for line in lines]
    )
    size = (max(5.6, 2.3 + column_width(pairs) * len(pairs)), 1.6 + 0.34 * len(lines))
    figure = canvas(
        *size,
        f"Gain over {plain(board.baseline, 60)}, percentage points" + quick_words(board),
        "Mean paired difference over seeds. Bold: differs from zero at 5%, corrected for all"
        f" {sum(p is not None for p in board.cell_p.values())} cells (Holm)." + star_words(lines) + cut,
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
    axis.set_xticks(range(len(pairs)), [pair_title(pair) for pair in pairs], fontsize=8)
    axis.xaxis.tick_top()
    axis.tick_params(length=0)
    axis.set_yticks(range(len(lines)), [line_name(line) for line in lines])
    axis.set_xticks(np.arange(len(pairs) + 1) - 0.5, minor=True)
    axis.set_yticks(np.arange(len(lines) + 1) - 0.5, minor=True)
    axis.grid(which="minor", color="white", linewidth=1.5)
    axis.tick_params(which="minor", length=0)
    for spine in axis.spines.values():
        spine.set_visible(False)
    class_border(axis, lines)
    bar = figure.colorbar(image, ax=axis, fraction=0.03, pad=0.015, extend="both")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=7.5)
    return figure


def ranks(board: Board) -> Figure | None:
    """Average ranks with their intervals, and what the Nemenyi test tells apart; none without both."""
    told = compare.separation(board)
    lines, _, cut = within(board, board.compared)
    intervals = any(line.rank and line.rank.low is not None for line in lines)
    if len(lines) < 3 or told is None or not (intervals or told.distance):
        return None
    bars = f"Bars: 95% interval, {facts.RESAMPLED}. " if intervals else ""
    said = f"Friedman p = {told.friedman:.2g}. " if told.friedman is not None else ""
    verdict = f"{told.sentence[0].upper()}{told.sentence[1:]}{', joined by brackets' if told.distance else ''}."
    figure = canvas(
        7.2,
        1.75 + 0.27 * len(lines),
        "Average rank, 1 is best" + quick_words(board),
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
    axis.set_yticks(range(len(lines)), [line_name(line) for line in lines])
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


def _below(p: float | None) -> bool:
    return p is not None and p < 1 - stats.LEVEL


def _blank(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, facecolor="#f1f3f5", edgecolor="white", hatch=None, linewidth=1.5)
