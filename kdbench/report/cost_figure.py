"""Accuracy against what a step costs, of methods that were measured together."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator, StrMethodFormatter

from kdbench.report import facts
from kdbench.report.board import STUDENT, Board, Line
from kdbench.report.cost import Cost, groups
from kdbench.report.escape import plain
from kdbench.report.labels import SIZE, Point, label_points
from kdbench.report.style import ACCENT, GOOD, INK, SOFT, canvas, drawing
from kdbench.report.teacherless import Pair

MOST = 60  # names in one figure
COLUMN = 0.74  # share of the width for points; names that find no place beside theirs stand at the right


def cost(board: Board, costs: Sequence[Cost]) -> Figure | None:
    """Accuracy against time and memory of the group in which most methods were measured; None without costs."""
    for (pair, condition), rows in groups(board, costs).items():
        rows = [(line, one) for line, one in rows if line.kind != "student"]  # a line of its own, at no cost
        lines = [line for line, _ in rows]
        shared = [one for one in board.pairs if all(line.cells[one].by_seed for line in lines)]
        measured = [
            (words, values)
            for words, values in (
                ("extra time of a step (ms)", [one.extra_ms for _, one in rows]),
                ("extra memory (MB)", [one.extra_mb for _, one in rows]),
            )
            if sum(value is not None for value in values) > 1
        ]
        if shared and measured and len(lines) <= MOST:
            with drawing():
                return _draw(board, lines, shared, measured, f"{plain(pair, 60)}, {plain(condition, 120)}")
    return None


def _draw(
    board: Board,
    lines: list[Line],
    pairs: list[Pair],
    measured: Sequence[tuple[str, list[float | None]]],
    condition: str,
) -> Figure:
    figure = canvas(
        max(6.4, 5.2 * len(measured)),
        max(3.9, 1.4 + 1.5 * SIZE / 72 * len(lines)),
        "Accuracy against the cost of a step" + ("  (QUICK RUN, not comparable)" if board.selection.quick else ""),
        f"Top-1, {facts.RULE_WORDS[board.rule]}, mean over {len(pairs)} pair{'s' * (len(pairs) != 1)} that all have."
        f" Cost beside the plain student's step, measured on {condition}. Line: no other is better and cheaper.",
        facts.footer(board),
    )
    axes = figure.subplots(1, len(measured), sharey=True, squeeze=False)[0]
    student = board.line(STUDENT)
    plain_top1 = student.mean(pairs=[pair for pair in pairs if student.cells[pair].by_seed]) if student else None
    for axis, (words, values) in zip(axes, measured, strict=True):
        named = _named(lines, values, pairs)
        _panel(axis, [point for point, _ in named], [line for _, line in named], words)
        if plain_top1 is not None:
            axis.axhline(plain_top1, color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    axes[0].set_ylabel("top-1 (%), dashed: plain student")
    for axis, (_, values) in zip(axes, measured, strict=True):
        points = [point for point, _ in _named(lines, values, pairs)]
        names = [plain(line.shown, 40) for _, line in _named(lines, values, pairs)]
        if label_points(figure, axis, points, names, step(front(points))):  # a crowd: make room for a column of names
            for text in list(axis.texts):
                text.remove()
            low, high = axis.get_xlim()
            wide = axis.get_xscale() == "log"
            axis.xaxis.set_major_locator(FixedLocator([tick for tick in axis.get_xticks() if low <= tick <= high]))
            axis.xaxis.set_minor_locator(NullLocator())
            axis.set_xlim(low, low * (high / low) ** (1 / COLUMN) if wide else low + (high - low) / COLUMN)
            label_points(figure, axis, points, names, step(front(points)), COLUMN)
    return figure


def _named(lines: list[Line], values: list[float | None], pairs: list[Pair]) -> list[tuple[Point, Line]]:
    """(cost, accuracy) of every line that has both."""
    return [
        ((value, top1), line)
        for line, value in zip(lines, values, strict=True)
        if value is not None and (top1 := line.mean(pairs=pairs)) is not None
    ]


def _panel(axis: Axes, points: list[Point], lines: list[Line], words: str) -> None:
    best = front(points)
    for point, line in zip(points, lines, strict=True):
        colour = GOOD if point in best else INK
        axis.plot(*point, marker="s" if line.kind == "modified" else "o", color=colour, markersize=5)
    axis.plot(*zip(*step(best), strict=True), color=ACCENT, linewidth=1, alpha=0.7, zorder=1)
    axis.set_xlabel(words + ", less is better")
    axis.margins(0.16, 0.1)
    axis.grid(True)
    costs = [x for x, _ in points]
    wide = min(costs) > 0 and max(costs) > 30 * min(costs)
    if wide:
        axis.set_xscale("log")
    high = axis.get_xlim()[1]
    if not wide:
        axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}" if not wide and high > 20 else "{x:g}"))


def front(points: Sequence[Point]) -> list[Point]:
    """Points that no other beats in both, by rising cost."""
    best: list[Point] = []
    for point in sorted(set(points), key=lambda one: (one[0], -one[1])):
        if not best or point[1] > best[-1][1]:
            best.append(point)
    return best


def step(corners: Sequence[Point]) -> list[Point]:
    """Corners of the staircase through the front."""
    stairs = [corners[0]]
    for before, after in pairwise(corners):
        stairs += [(after[0], before[1]), after]
    return stairs
