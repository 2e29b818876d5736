"""Every two methods: by how much the one is above the other, and whether that is more than chance."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from kdbench.report import compare, escape, facts, stats
from kdbench.report.board import Board, Line
from kdbench.report.items import sure
from kdbench.report.panels import grid_shape, line_name, pair_title, quick_words, star_words
from kdbench.report.style import canvas, drawing, readable_on

MOST_LINES = 42  # of one map
NUMBERED = 14  # methods up to which numbers and a map for each pair have room
MOST_PANELS = 13

Values = NDArray[np.float64]


def duels(board: Board) -> Figure | None:
    """A map over all pairs, and one for each pair where the methods are few; None for fewer than three methods."""
    every = [line for line in board.everything if line.runs]
    lines = every[:MOST_LINES]
    if len(lines) < 3:
        return None
    frame = compare.every_two(board)
    shown = list(dict.fromkeys(frame["pair"]))
    small = len(lines) <= NUMBERED
    shown = shown[: MOST_PANELS + 1] if small else shown[:1]
    place = {escape.csv(line.label): number for number, line in enumerate(lines)}
    maps = {name: _matrix(frame[frame["pair"] == name], place, len(lines)) for name in shown}
    if not maps:
        return None  # no two methods share a run
    if not any(certain.any() for _, certain in maps.values()) and not small:
        return None  # a large map without a mark says nothing that the table does not
    rows, columns = grid_shape(len(maps))
    side = (0.52 if small else 0.2) * len(lines)
    words = [f"the first {len(lines)} of {len(every)} methods"] * (len(every) > len(lines))
    cut = f" Shown: {', '.join(words)}." if words else ""
    cut += " Each pair by itself: comparisons.csv." if len(maps) == 1 and len(board.pairs) > 1 else ""
    mark = "Bold" if small else "Dot"
    with drawing():
        figure = canvas(
            max(6.4, 1.7 + columns * (side + 1.0)),
            2.0 + rows * (side + 1.0),
            "Every two methods" + quick_words(board),
            "Row minus column, paired over seeds, in points; blue: the row is above."
            f" {mark}: differs from zero at 5%, corrected for all comparisons of the map (Holm)."
            + star_words(lines) + cut,
            facts.footer(board),
        )  # fmt: skip
        axes = figure.subplots(rows, columns, squeeze=False)
        limit = stats.colour_limit([value for values, _ in maps.values() for value in values[np.isfinite(values)]])
        titles = {escape.csv(":".join(pair)): pair_title(pair) for pair in board.pairs}
        for axis, (name, found) in zip(axes.flat, maps.items(), strict=False):
            image = _map(axis, lines, *found, limit=limit, small=small)
            if not small:
                bar = figure.colorbar(image, ax=axis, fraction=0.03, pad=0.015, extend="both")
                bar.outline.set_visible(False)
                bar.ax.tick_params(labelsize=7)
            axis.set_title("all pairs" if name == compare.ALL else titles.get(name, str(name)), fontsize=8.5)
        for axis in axes.flat[len(maps) :]:
            axis.set_visible(False)
    return figure


def _matrix(frame: object, place: dict[object, int], size: int) -> tuple[Values, NDArray[np.bool_]]:
    """Differences (methods, methods), NaN where there is none, and which of them are more than chance."""
    values = np.full((size, size), np.nan)
    certain = np.zeros(values.shape, dtype=bool)
    columns = ("method", "other", "difference", "p_holm")
    for method, other, apart, p in zip(*(frame[name] for name in columns), strict=True):  # type: ignore[index]
        if method in place and other in place:
            one, two = place[method], place[other]
            values[one, two], values[two, one] = apart, -apart
            certain[one, two] = certain[two, one] = sure(None if p is None or np.isnan(p) else p)
    return values, certain


def _map(
    axis: Axes, lines: list[Line], values: Values, certain: NDArray[np.bool_], *, limit: float, small: bool
) -> AxesImage:
    image = axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="equal")
    sure_ones = np.argwhere(certain & np.isfinite(values))
    if not small and len(sure_ones):  # numbers would be too small to read
        shades = image.to_rgba(values[tuple(sure_ones.T)])
        colours = [readable_on(tuple(shade[:3])) for shade in shades]
        axis.scatter(sure_ones[:, 1], sure_ones[:, 0], s=7, c=colours, linewidths=0)
    for row, column in np.argwhere(np.isfinite(values)) if small else ():
        value = values[row, column]
        colour = readable_on(tuple(image.to_rgba(np.array([value]))[0][:3]))
        weight = "bold" if certain[row, column] else "normal"
        axis.text(column, row, f"{value:+.1f}", ha="center", va="center", fontsize=7, color=colour, weight=weight)
    names = [line_name(line) for line in lines]
    axis.set_xticks(range(len(lines)), names, rotation=90)
    axis.set_yticks(range(len(lines)), names)
    axis.tick_params(length=0, labelsize=7 if small else 6)
    for spine in axis.spines.values():
        spine.set_visible(False)
    return image
