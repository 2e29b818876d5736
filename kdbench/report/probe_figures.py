"""Figures of probes: maps of similarity and attention, reliability diagrams, dots."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import fmean

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kdbench.report.escape import plain
from kdbench.report.panels import end_columns
from kdbench.report.probe_curves import curves
from kdbench.report.probe_groups import Group
from kdbench.report.style import ACCENT, GOOD, PALE, SOFT, canvas, drawing, readable_on
from kdbench.utils.findings import TEACHER, Matrix

MOST_PANELS, PER_ROW = 20, 5


def draw(probe: str, title: str, groups: Sequence[Group]) -> Figure | None:
    """The figure of a probe; ``groups`` are of one suite. None where there is nothing to draw."""
    drawers: dict[str, Callable[[str, Sequence[Group]], Figure | None]] = {
        "robustness": lambda title, groups: curves(title, groups, footer(groups)),
        "similarity": lambda title, groups: maps(title, groups, "cka", "student's layer, down", "0 to 1"),
        "attention": lambda title, groups: maps(title, groups, "alpha", "student's stage, down", "rows sum to 1"),
        "calibration": reliability,
        "agreement": lambda title, groups: dots(title, groups, ["agreement (%)", "on teacher's errors (%)", "KL"]),
        "cost": lambda title, groups: dots(title, groups, _cost_columns(groups), from_zero=True),
        "transfer": lambda title, groups: dots(title, groups, ["top-1 (%)"]),
        "finetune": lambda title, groups: dots(title, groups, ["top-1 (%)"]),
    }
    with drawing():
        return drawers[probe](title, groups)


def _cost_columns(groups: Sequence[Group]) -> list[str]:
    found = dict.fromkeys(name for group in groups for one in group.findings for name in one.summary)
    return [name for name in found if name in ("parameters", "MACs") or name.startswith("latency")]


def footer(groups: Sequence[Group]) -> str:
    """The small print."""
    seeds = sorted({len(group.seeds) for group in groups if group.seeds})
    n = "" if not seeds else f"n = {seeds[0]}" if seeds[0] == seeds[-1] else f"n = {seeds[0]} to {seeds[-1]}"
    found = [one for group in groups for one in group.findings]
    quick = "QUICK RUN, not comparable" if any(one.quick for one in found) else ""
    machines = sorted({str(one.environment.get("gpu") or one.environment.get("cpu") or "") for one in found} - {""})
    torch = sorted({str(one.environment["torch"]) for one in found if one.environment.get("torch")})
    parts = [f"suite {groups[0].suite}", f"{n} seed{'s' * (n != 'n = 1')}" if n else "", quick]
    parts += [", ".join(machines[:2]), f"torch {', '.join(torch)}" if torch else ""]
    return " · ".join(part for part in parts if part)


def _cut(groups: Sequence[Group], most: int, what: str) -> tuple[list[Group], str]:
    more = f" Shown: the first {most} of {len(groups)} {what}." if len(groups) > most else ""
    return list(groups[:most]), more


def _grid(count: int) -> tuple[int, int]:
    rows = math.ceil(count / PER_ROW)
    return rows, math.ceil(count / rows)


def _heading(name: str) -> str:
    return "\n".join(plain(line, 34) for line in name.split("\n"))


def _line_name(group: Group, groups: Sequence[Group]) -> str:
    """The method, with its pair where there are several."""
    pairs = {(one.teacher, one.student) for one in groups if one.method != TEACHER and one.teacher}
    words = [group.method]
    if group.method == TEACHER:
        words.append(group.teacher)
    elif len(pairs) > 1:
        words.append(f"{group.teacher} → {group.student}" if group.teacher else group.student)
    variants = {one.variant for one in groups}
    if len(variants) > 1 and group.variant:
        words.append(group.variant)
    return plain(" ".join(words), 60)


# -- maps ---------------------------------------------------------------------------------


def maps(title: str, groups: Sequence[Group], name: str, rows_are: str, scale: str) -> Figure | None:
    """A map for each method on a pair: rows the student's layers, columns the teacher's."""
    every = [(group, group.matrix(name)) for group in groups]
    both = [(group, found) for group, found in every if found is not None and found.rows and found.columns]
    shown, cut = _cut([group for group, _ in both], MOST_PANELS, "maps")
    if not shown:
        return None
    tall = max(len(found.rows) for _, found in both)
    wide = max(len(found.columns) for _, found in both)
    rows, columns = _grid(len(shown))
    figure = canvas(
        max(6.4, (0.75 + 0.48 * wide) * columns + 0.3),
        1.4 + rows * (1.15 + 0.3 * tall),
        title,
        f"Rows: {rows_are}; columns: the teacher's. Mean over seeds, {scale}." + cut,
        footer(groups),
    )
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis, (group, found) in zip(axes.flat, both, strict=False):
        _map(axis, found)
        axis.set_title(_heading(group.name), fontsize=8)
    for axis in axes.flat[len(shown) :]:
        axis.set_visible(False)
    return figure


def _map(axis: Axes, found: Matrix) -> None:
    values = np.array([[math.nan if v is None else v for v in row] for row in found.values], dtype=float)
    image = axis.imshow(values, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for i, j in np.ndindex(values.shape):
        if not math.isnan(values[i, j]):
            red, green, blue, _ = image.cmap(image.norm(values[i, j]))
            words = f"{values[i, j]:.2f}".replace("0.", ".", 1)
            axis.text(j, i, words, ha="center", va="center", fontsize=7, color=readable_on((red, green, blue)))
    axis.set_xticks(range(len(found.columns)), [plain(one, 14) for one in found.columns], rotation=45, ha="right")
    axis.set_yticks(range(len(found.rows)), [plain(one, 14) for one in found.rows])
    axis.tick_params(length=0, labelsize=7)
    for spine in axis.spines.values():
        spine.set_visible(False)


# -- reliability --------------------------------------------------------------------------


def reliability(title: str, groups: Sequence[Group]) -> Figure | None:
    """Accuracy against confidence for each method on a pair, as it is and after temperature scaling."""
    shown, cut = _cut(groups, MOST_PANELS, "panels")
    rows, columns = _grid(len(shown))
    figure = canvas(
        max(6.4, 1.85 * columns + 0.5),
        1.5 + 2.2 * rows,
        title,
        "Accuracy of the images in each bin of the confidence. Blue: the test images; orange: after temperature"
        " scaling, on the half that did not choose the temperature. Dashed: honest. Bars: share of the images." + cut,
        footer(groups),
    )
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axis, group in zip(axes.flat, shown, strict=False):
        axis.plot([0, 1], [0, 1], color=SOFT, linewidth=0.9, linestyle=(0, (4, 3)))
        shares = _bins(group, "test")
        total = sum(images for _, _, images in shares) or 1
        width = 1 / max(1, len(shares))
        axis.bar(
            [(at + 0.5) * width for at in range(len(shares))],
            [images / total for _, _, images in shares],
            width=0.9 * width,
            color=PALE,
            zorder=0,
        )
        for part, colour, marker in (("half, scaled", ACCENT, "s"), ("test", GOOD, "o")):
            points = [(x, y) for x, y, _ in _bins(group, part) if x is not None and y is not None]
            if points:
                axis.plot(*zip(*points, strict=True), color=colour, marker=marker, markersize=3, linewidth=1)
        ece, after = group.mean("ECE (%)"), group.mean("ECE after (%)")
        errors = f"\nECE {ece:.1f} → {after:.1f}%" if ece is not None and after is not None else ""
        axis.set_title(_heading(group.name + errors), fontsize=8)
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1)
    for row in axes:
        row[0].set_ylabel("accuracy")
    end_columns(axes, len(shown), "confidence")
    return figure


def _bins(group: Group, part: str) -> list[tuple[float | None, float | None, float]]:
    """Mean confidence, accuracy and images of each bin, all seeds together."""
    found: dict[float, list[tuple[float, float, float]]] = {}
    for one in group.findings:
        for row in one.rows:
            if row.get("part") != part or row.get("measure") != "bin":
                continue
            low, images = row.get("low"), row.get("images")
            if isinstance(low, int | float) and isinstance(images, int | float):
                x, y = row.get("confidence"), row.get("accuracy")
                known = isinstance(x, int | float) and isinstance(y, int | float)
                found.setdefault(low, []).append((float(x or 0), float(y or 0), images if known else 0))
    made: list[tuple[float | None, float | None, float]] = []
    for _, seen in sorted(found.items()):
        images = sum(n for _, _, n in seen)
        means = [sum(one[at] * one[2] for one in seen) / images for at in (0, 1)] if images else [None, None]
        made.append((means[0], means[1], images))
    return made


# -- dots ---------------------------------------------------------------------------------


def dots(title: str, groups: Sequence[Group], measures: Sequence[str], *, from_zero: bool = False) -> Figure | None:
    """A panel for each measure and variant, a row for each method on a pair, a dot for each seed."""
    variants = list(dict.fromkeys(group.variant for group in groups))
    panels = [
        (variant, name)
        for variant in variants
        for name in measures
        if any(group.values(name) for group in groups if group.variant == variant)
    ][:PER_ROW]
    if not panels:
        return None
    rows = list(dict.fromkeys((group.teacher, group.student, group.method) for group in groups))
    cut = f" Shown: the first 60 of {len(rows)} rows." if len(rows) > 60 else ""
    rows = rows[:60]
    labels = [_line_name(Group("", "", "", *row, []), groups) for row in rows]
    figure = canvas(
        max(6.4, 1.0 + 0.075 * max(map(len, labels)) + 2.0 * len(panels)),
        1.55 + 0.24 * len(rows),
        title,
        "Dots: seeds. Bar: their mean. Grey: the teacher." + cut,
        footer(groups),
    )
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (variant, name) in zip(axes, panels, strict=True):
        for at, row in enumerate(rows):
            values = [
                value
                for group in groups
                if (group.teacher, group.student, group.method) == row and group.variant == variant
                for value in group.values(name)
            ]
            if values:
                colour = SOFT if row[2] == TEACHER else GOOD
                axis.plot(values, [at] * len(values), "o", color=colour, markersize=3.5, alpha=0.75, markeredgewidth=0)
                axis.plot([fmean(values)] * 2, [at - 0.28, at + 0.28], color=colour, linewidth=1.6)
        axis.set_title("\n".join(plain(words, 40) for words in (name, variant) if words), fontsize=8.5)
        axis.grid(True, axis="x")
        axis.margins(x=0.1)
        if from_zero:
            axis.set_xlim(left=0)
        axis.xaxis.set_major_locator(MaxNLocator(4))
        axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 5), useMathText=False)
    axes[0].set_yticks(range(len(rows)), labels)
    axes[0].set_ylim(len(rows) - 0.4, -0.6)
    return figure
