"""Accuracy under corruption, as curves: a row of panels for each pair, or one panel for each corruption of one pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from kdbench.report.board import STUDENT
from kdbench.report.escape import plain
from kdbench.report.panels import end_columns
from kdbench.report.probe_groups import Group
from kdbench.report.style import COLOURS, MARKERS, SOFT, canvas
from kdbench.utils.findings import TEACHER

MOST_LINES, MOST_PAIRS, PER_ROW = 12, 8, 5
#: Panels of one pair in one figure, and of each of several.
MOST_KINDS, MOST_BESIDE = 20, 8
Pair = tuple[str, str]
Kind = tuple[str, str]  # variant, corruption


def curves(title: str, groups: Sequence[Group], footer: str) -> Figure | None:
    """Top-1 against the level of each corruption; a line for each method, the teacher's dashed."""
    pairs = _pairs(groups)
    several = len(pairs) > 1
    found = [(group.variant, row) for group in groups for one in group.findings for row in one.rows]
    kinds = list(dict.fromkeys((variant, str(row["corruption"])) for variant, row in found if "corruption" in row))
    variants = list(dict.fromkeys(variant for variant, _ in kinds))
    methods = list(dict.fromkeys(group.method for group in groups if group.method != TEACHER))
    methods, which = _highest(groups, methods)
    cuts: list[tuple[Sequence[object], int, str]] = [(pairs, MOST_PAIRS, "pairs")]
    cuts.append((kinds, MOST_BESIDE if several else MOST_KINDS, "corruptions"))
    firsts = [f"the first {most} of {len(every)} {what}" for every, most, what in cuts if len(every) > most]
    more = "; ".join(filter(None, [which, *firsts]))
    pairs, kinds = pairs[:MOST_PAIRS], kinds[: MOST_BESIDE if several else MOST_KINDS]
    if not kinds or not pairs:
        return None
    columns = len(kinds) if several else math.ceil(len(kinds) / math.ceil(len(kinds) / PER_ROW))
    rows = len(pairs) if several else math.ceil(len(kinds) / columns)
    figure = canvas(
        max(6.4, (1.75 if several else 2.1) * columns + 0.08 * max(map(len, [*methods, TEACHER])) + 1.0),
        1.5 + (1.75 if several else 2.1) * rows,
        title,
        "Top-1 (%) from level 0 (clean) to level 5, mean over seeds. Every network sees the same corrupted images."
        + (f" Of {plain(variants[0], 200)}." if len(variants) == 1 and variants[0] else "")
        + (f" Shown: {more}." if more else ""),
        footer,
    )
    axes = figure.subplots(rows, columns, sharex=True, sharey="row" if several else True, squeeze=False)
    lines: dict[str, Line2D] = {}
    for number, pair in enumerate(pairs):
        mine = axes[number] if several else axes.flat
        for axis, kind in zip(mine, kinds, strict=False):
            lines |= _panel(axis, [group for group in groups if _of(group, pair)], kind, methods)
            axis.set_title(_kind_name(kind, named=len(variants) > 1) if number == 0 else "", fontsize=8.5)
        mine[0].set_ylabel("\n".join(["top-1 (%)", *(_pair_name(pair) if several else [])]), fontsize=8)
    if not several:
        end_columns(axes, len(kinds))
    shown = [name for name in (TEACHER, *methods) if name in lines]
    figure.legend(
        [lines[name] for name in shown], [plain(name, 40) for name in shown], loc="outside right center", fontsize=7.5
    )
    return figure


def _highest(groups: Sequence[Group], methods: list[str]) -> tuple[list[str], str]:
    """The plain student and as many of the others as can be told apart, the highest; words where some are left out."""
    if len(methods) <= MOST_LINES:
        return methods, ""
    heights: dict[str, list[float]] = {}
    for group in groups:
        rows = (row.get("top1") for one in group.findings for row in one.rows)
        heights.setdefault(group.method, []).extend(top1 for top1 in rows if isinstance(top1, int | float))
    others = [name for name in methods if name != STUDENT and heights[name]]
    room = MOST_LINES - (STUDENT in methods)
    kept = {STUDENT, *sorted(others, key=lambda name: -fmean(heights[name]))[:room]}
    student = "the plain student and " if STUDENT in methods else ""
    words = f"{student}the {room} methods with the highest mean, of {len(methods)} rows"
    return [name for name in methods if name in kept], words


def _pairs(groups: Sequence[Group]) -> list[Pair]:
    """Teacher and student of every panel's row; a student alone where nobody taught any of its methods."""
    taught = list(dict.fromkeys((group.teacher, group.student) for group in groups if group.teacher and group.student))
    students = {student for _, student in taught}
    alone = [(group.teacher, group.student) for group in groups if group.student and group.student not in students]
    found = [*taught, *dict.fromkeys(alone)]
    return found or list(dict.fromkeys((group.teacher, "") for group in groups))


def _of(group: Group, pair: Pair) -> bool:
    """Whether a line belongs to a pair: its methods, its teacher, and what its student does without one."""
    if group.method == TEACHER:
        return group.teacher == pair[0]
    return group.student == pair[1] and group.teacher in ("", pair[0])


def _panel(axis: Axes, groups: Sequence[Group], kind: Kind, methods: Sequence[str]) -> dict[str, Line2D]:
    """Draw; returns a line of each method."""
    drawn: dict[str, Line2D] = {}
    for group in groups:
        points = _curve(group, kind) if group.variant == kind[0] else []
        if points and (group.method == TEACHER or group.method in methods):
            x, y = zip(*points, strict=True)
            if group.method == TEACHER:
                line = axis.plot(x, y, color=SOFT, linestyle=(0, (4, 3)), linewidth=1.1)
            else:
                at = methods.index(group.method)
                marker = MARKERS[(at + at // len(COLOURS)) % len(MARKERS)]
                line = axis.plot(x, y, color=COLOURS[at % len(COLOURS)], marker=marker, markersize=3.5, linewidth=1.2)
            drawn[group.method] = line[0]
    axis.grid(True)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    return drawn


def _curve(group: Group, kind: Kind) -> list[tuple[float, float]]:
    """(level, mean top-1)."""
    found: dict[float, list[float]] = {}
    for one in group.findings:
        for row in one.rows:
            level, top1 = row.get("level"), row.get("top1")
            if row.get("corruption") == kind[1] and isinstance(level, int | float) and isinstance(top1, int | float):
                found.setdefault(level, []).append(top1)
    return [(level, fmean(values)) for level, values in sorted(found.items())]


def _kind_name(kind: Kind, *, named: bool) -> str:
    """The corruption, below its variant where there are several."""
    return "\n".join(plain(word, 24) for word in (kind[0] if named else "", kind[1].replace("_", " ")) if word)


def _pair_name(pair: Pair) -> list[str]:
    return [plain(words, 24) for words in (pair[0], f"→ {pair[1]}" if pair[0] else pair[1]) if words]
