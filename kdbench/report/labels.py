"""Names beside points without names over names."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from kdbench.report.style import INK, SOFT

Point = tuple[float, float]

# Where a name may stand: offset in points and how it is aligned there, the preferred first.
_NEAR = [
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
) -> None:
    """Put each name at the first place where it covers no point, no other name, no border and not the line."""
    canvas = FigureCanvasAgg(figure)
    figure.draw_without_rendering()  # lays out, so that boxes have their final size
    renderer = canvas.get_renderer()
    frame = axis.get_window_extent(renderer)
    marks = [_box(axis.transData.transform(point), 4 * figure.dpi / 72) for point in points]
    corners: Any = axis.transData.transform(line) if len(line) > 1 else []
    taken = [_between(one, other, 4 * figure.dpi / 72) for one, other in pairwise(corners)]
    for number in sorted(range(len(points)), key=lambda one: (-points[one][1], points[one][0], names[one])):
        best, best_overlap = None, float("inf")
        others = taken + [mark for other, mark in enumerate(marks) if other != number]
        for x, y, horizontal, vertical in _PLACES:
            text = axis.annotate(
                names[number],
                points[number],
                (x, y),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                fontsize=8,
                color=INK,
                arrowprops={"arrowstyle": "-", "color": SOFT, "linewidth": 0.5, "shrinkA": 0, "shrinkB": 3}
                if abs(x) + abs(y) > 12
                else None,
            )
            box = text.get_tightbbox(renderer)
            assert box is not None
            words = Bbox(text.get_window_extent(renderer)) if abs(x) + abs(y) <= 12 else box
            overlap = sum(_overlap(words, other) for other in others) + _outside(words, frame)
            if overlap < best_overlap:
                if best is not None:
                    best[0].remove()
                best, best_overlap = (text, words), overlap
            else:
                text.remove()
            if best_overlap == 0:
                break
        assert best is not None
        taken.append(best[1])


def _box(centre: Any, half: float) -> Bbox:
    x, y = centre
    return Bbox.from_extents(x - half, y - half, x + half, y + half)


def _between(one: Any, other: Any, half: float) -> Bbox:
    (x1, y1), (x2, y2) = one, other
    return Bbox.from_extents(min(x1, x2) - half, min(y1, y2) - half, max(x1, x2) + half, max(y1, y2) + half)


def _overlap(one: Bbox, other: Bbox) -> float:
    both = Bbox.intersection(one, other)
    return float(both.width * both.height) if both is not None else 0.0


def _outside(box: Bbox, frame: Bbox) -> float:
    return float(box.width * box.height) - _overlap(box, frame)
