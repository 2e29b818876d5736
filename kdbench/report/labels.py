"""Names beside points without names over names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox

from kdbench.report.style import INK, SOFT

Point = tuple[float, float]

SIZE = 7.5  # of a name, in points
_JOIN = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3, "relpos": (0, 0.5)}
#: A name stands out from a line that passes behind it.
_HALO = [withStroke(linewidth=2, foreground="white")]
#: Above lines and points; what joins a name in the column to its point lies below these.
_ABOVE, _BELOW = 6, 2

# Where a name may stand: offset in points and how it is aligned there, the preferred first.
_NEAR: list[tuple[float, float, Any, Any]] = [
    (6, 0, "left", "center"),
    (-6, 0, "right", "center"),
    (0, 6, "center", "bottom"),
    (0, -6, "center", "top"),
    (5, 5, "left", "bottom"),
    (5, -5, "left", "top"),
    (-5, 5, "right", "bottom"),
    (-5, -5, "right", "top"),
]
_PLACES = _NEAR + [(far * x, far * y, h, v) for far in (2.5, 4, 6, 8) for x, y, h, v in _NEAR]


def label_points(
    figure: Figure,
    axis: Axes,
    points: Sequence[Point],
    names: Sequence[str],
    line: Sequence[Point] = (),
    column: float = 1.0,
) -> int:
    """Name every point, no name on another name, on a point or across the border.

    A name stands at the first place beside its point where it covers nothing, the line included. Those that find none
    stand in a column of their own at the right, in the order of their points and joined to them.

    Args:
        figure, axis: drawn already but for the names.
        points, names: in the axis' data.
        line: corners of a line that names should not cross.
        column: where the column begins, as a share of the axis' width; points must lie left of it. From 1 on there
            is no room for one, and a name without a place stands where it covers least.

    Returns:
        How many names found no place beside their points.
    """
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # lays out, so that boxes have their final size
    figure.set_layout_engine("none")  # and keeps it
    renderer = canvas.get_renderer()
    whole = axis.get_window_extent(renderer)
    frame = Bbox.from_extents(whole.x0, whole.y0, whole.x0 + min(column, 1.0) * whole.width, whole.y1)
    half = 4 * figure.dpi / 72
    marks = [_box(axis.transData.transform(point), half) for point in points]
    corners: Any = axis.transData.transform(line) if len(line) > 1 else []
    taken = [_between(one, other, half) for one, other in pairwise(corners)]
    homeless, misfits = [], 0
    for number in sorted(range(len(points)), key=lambda one: (-points[one][1], points[one][0], names[one])):
        others = taken + [mark for other, mark in enumerate(marks) if other != number]
        text, box, overlap = _place(axis, renderer, points[number], names[number], others, frame)
        misfits += overlap > 0
        if overlap and column < 1:
            text.remove()
            homeless.append(number)
        else:
            taken.append(box)
    _column(axis, renderer, [(points[number], names[number]) for number in homeless], column)
    return misfits


def _place(
    axis: Axes, renderer: Any, point: Point, name: str, others: Sequence[Bbox], frame: Bbox
) -> tuple[Any, Bbox, float]:
    """The name at the first free place beside its point, else where it covers least; its box; what it covers."""
    x0, y0 = axis.transData.transform(point)
    dot = axis.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    text = axis.annotate(name, point, (0, 0), textcoords="offset points", fontsize=SIZE, color=INK)
    size = text.get_window_extent(renderer)
    text.remove()
    around = np.array([other.extents for other in others]).reshape(-1, 4)
    inside = np.asarray(frame.extents)[None]
    best: tuple[tuple[float, float, Any, Any], Bbox] | None = None
    best_overlap = float("inf")
    for place in _PLACES:
        x, y, horizontal, vertical = place
        left = x0 + x * dot - size.width * {"left": 0, "center": 0.5, "right": 1}[horizontal]
        low = y0 + y * dot - size.height * {"bottom": 0, "center": 0.5, "top": 1}[vertical]
        box = Bbox.from_bounds(left, low, size.width, size.height)
        if _far(place):  # with the line that joins it to its point
            box = Bbox.from_extents(min(left, x0), min(low, y0), max(box.x1, x0), max(box.y1, y0))
        overlap = float(_overlaps(box, around).sum()) + box.width * box.height - float(_overlaps(box, inside).sum())
        if overlap < best_overlap:
            best, best_overlap = (place, box), overlap
        if overlap < 1e-6:
            break
    assert best is not None
    x, y, horizontal, vertical = best[0]
    text = axis.annotate(
        name,
        point,
        (x, y),
        textcoords="offset points",
        ha=horizontal,
        va=vertical,
        fontsize=SIZE,
        color=INK,
        arrowprops=_JOIN if _far(best[0]) else None,
        path_effects=_HALO,
        zorder=_ABOVE,
    )
    return text, best[1], best_overlap if best_overlap >= 1e-6 else 0.0


def _far(place: tuple[float, float, Any, Any]) -> bool:
    return abs(place[0]) + abs(place[1]) > 12


def _column(axis: Axes, renderer: Any, homeless: Sequence[tuple[Point, str]], column: float) -> None:
    """Names one below the other, as near to the height of their points as the others let them be."""
    if not homeless:
        return
    frame = axis.get_window_extent(renderer)
    step = 1.45 * SIZE * axis.get_figure(root=True).dpi / 72  # type: ignore[union-attr]
    wanted = [float(axis.transData.transform(point)[1]) for point, _ in homeless]  # falling
    heights = wanted[:]
    low, high = frame.y0 + step / 2, frame.y1 - step / 2
    for place in range(len(heights)):  # not above the border, not on the one before
        heights[place] = min(heights[place], high if not place else heights[place - 1] - step)
    for place in reversed(range(len(heights))):  # and up again where the lowest would leave the frame
        heights[place] = max(heights[place], low if place == len(heights) - 1 else heights[place + 1] + step)
    for (point, name), height in zip(homeless, heights, strict=True):
        axis.annotate(
            name,
            point,
            (column + 0.02, (height - frame.y0) / frame.height),
            textcoords="axes fraction",
            ha="left",
            va="center",
            fontsize=SIZE,
            color=INK,
            arrowprops=_JOIN,
            zorder=_BELOW,
        )


def _box(centre: Any, half: float) -> Bbox:
    x, y = centre
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _between(one: Any, other: Any, half: float) -> Bbox:
    (x1, y1), (x2, y2) = one, other
    return Bbox.from_extents(min(x1, x2) - half, min(y1, y2) - half, max(x1, x2) + half, max(y1, y2) + half)


def _overlaps(box: Bbox, others: Any) -> Any:
    """Area that the box shares with each of the others, (n, 4) -> (n,)."""
    wide = np.minimum(box.x1, others[:, 2]) - np.maximum(box.x0, others[:, 0])
    high = np.minimum(box.y1, others[:, 3]) - np.maximum(box.y0, others[:, 1])
    return np.maximum(wide, 0) * np.maximum(high, 0)
