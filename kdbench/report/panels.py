"""What the figures have in common: panels of pairs, names of lines, as much as one figure can hold."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes

from kdbench.report.board import Board, Line
from kdbench.report.escape import by_line, plain
from kdbench.report.items import pair_name
from kdbench.report.style import SOFT
from kdbench.report.teacherless import Pair

PER_ROW = 5
MOST_LINES, MOST_PAIRS = 60, 40  # in one figure; the tables hold all


def within(board: Board, lines: list[Line]) -> tuple[list[Line], list[Pair], str]:
    """As many lines and pairs as one figure can hold, and words about the others."""
    pairs = board.pairs
    words = [
        f"the first {most} of {len(every)} {what}"
        for every, most, what in ((lines, MOST_LINES, "methods"), (pairs, MOST_PAIRS, "pairs"))
        if len(every) > most
    ]
    return lines[:MOST_LINES], pairs[:MOST_PAIRS], f" Shown: {', '.join(words)}." if words else ""


def pair_title(pair: Pair) -> str:
    """A pair's name over its panel."""
    return "\n".join(by_line(pair_name(pair), lambda line: plain(line, 24)))


def column_width(pairs: list[Pair]) -> float:
    """Inches of a column under its pair's name."""
    longest = max((len(line) for pair in pairs for line in pair_title(pair).split("\n")), default=0)
    return max(1.12, 0.2 + 0.068 * longest)


def line_name(line: Line) -> str:
    """A method's name at its row; a star where it changes the student."""
    return plain(line.shown, 32) + (" *" if line.kind == "modified" else "")


def grid_shape(count: int) -> tuple[int, int]:
    """Rows and columns of panels, as few empty ones as can be."""
    rows = math.ceil(count / PER_ROW)
    return rows, math.ceil(count / rows)


def end_columns(axes: Any, count: int, label: str = "") -> None:
    """Panels behind the first ``count`` are empty: hide them; the last one of a column has scale and label."""
    for axis in axes.flat[count:]:
        axis.set_visible(False)
    columns = axes.shape[1]
    for column in range(min(columns, count)):
        axis = axes[(count - 1 - column) // columns, column]
        axis.set_xlabel(label)
        axis.tick_params(labelbottom=True)


def star_words(lines: list[Line]) -> str:
    """What the star says, where there is one."""
    return " *: changes the student at inference." if any(line.kind == "modified" for line in lines) else ""


def class_border(axis: Axes, lines: list[Line]) -> None:
    """A line above the methods that change the student."""
    first = next((place for place, line in enumerate(lines) if line.kind == "modified"), None)
    if first:
        axis.axhline(first - 0.5, color=SOFT, linewidth=0.9, zorder=2)


def quick_words(board: Board) -> str:
    """The warning behind a heading."""
    return "  (QUICK RUN, not comparable)" if board.selection.quick else ""
