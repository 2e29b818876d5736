"""Every couple of stages: what a method that guides one stage by one of the teacher's gains from which of them.

The rows are those of the board whose runs say their couple (``fitnet[tap=1,teacher_tap=3]``), so suite ``mismatch``
makes them, and so does any run of such rows. Beside them stands SemCKD, which learns its couples (Chen et al., SemCKD,
AAAI 2021, compare it with hints that are fixed by hand); where it is not there, the baseline.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kdbench.report import escape, facts, stats
from kdbench.report.board import Board, Line, differences
from kdbench.report.escape import plain
from kdbench.report.items import NONE, SURE, Item, Row, Table, count, one_line, p_words, spread_item, sure
from kdbench.report.panels import grid_shape, pair_title, quick_words
from kdbench.report.stats import Gain
from kdbench.report.style import SOFT, canvas, drawing, readable_on
from kdbench.report.teacherless import Pair

LEARNED = "semckd"  # who chooses its couples itself
MOST_PANELS = 20
COLUMNS = (
    "method", "pair", "student_tap", "teacher_tap", "mean", "std", "n", "reference", "difference", "low", "high",
    "paired_runs", "p", "p_holm",
)  # fmt: skip


@dataclass(frozen=True)
class Couple:
    """One stage of the student guided by one of the teacher's, on one pair."""

    student_tap: int
    teacher_tap: int
    line: Line
    gain: Gain | None  # over the reference
    p: float | None  # of it, corrected for the couples of the matrix (Holm)


@dataclass(frozen=True)
class Couples:
    """All couples of a method on a pair, by student's stage and teacher's."""

    method: str
    pair: Pair
    reference: Line | None
    couples: tuple[Couple, ...]

    @property
    def best(self) -> Couple:
        """The one with the highest mean."""
        return max(self.couples, key=self.mean)

    @property
    def worst(self) -> Couple:
        """The one with the lowest mean."""
        return min(self.couples, key=self.mean)

    def mean(self, one: Couple) -> float:
        """Its accuracy in percent."""
        found = one.line.cells[self.pair].spread()
        assert found is not None
        return found.mean


def couples(board: Board) -> list[Couples]:
    """The matrices that the board has rows for: two couples at least, one of which names both stages."""
    by_method: dict[str, dict[tuple[int, int], Line]] = {}
    said: set[str] = set()
    for line in board.everything:
        hyper = next((run.settings.hyper for run in line.runs), {})
        tap, other = hyper.get("tap"), hyper.get("teacher_tap", -1)
        if type(tap) is not int or type(other) is not int:
            continue
        name = re.sub(r"\b(teacher_)?tap=[^,\]]*,?", "", line.label).replace(",]", "]").replace("[]", "")
        by_method.setdefault(name, {}).setdefault((tap, tap if other < 0 else other), line)
        said |= {name} if other >= 0 else set()
    made = []
    for name in sorted(said):
        reference = _reference(board)
        for pair in board.pairs:
            here = {at: line for at, line in by_method[name].items() if line.cells[pair].spread() is not None}
            if len(here) > 1:
                made.append(Couples(name, pair, reference, _against(reference, here, pair)))
    return made


def _against(reference: Line | None, here: dict[tuple[int, int], Line], pair: Pair) -> tuple[Couple, ...]:
    gains = [
        None if reference is None else stats.gain([differences(line.cells[pair], reference.cells[pair])])
        for line in here.values()
    ]
    corrected = stats.holm([gain and gain.p for gain in gains])
    found = [Couple(*at, line, gain, p) for (at, line), gain, p in zip(here.items(), gains, corrected, strict=True)]
    return tuple(sorted(found, key=lambda one: (one.student_tap, one.teacher_tap)))


def table(board: Board) -> Table:
    """A row for each couple on a pair; none where no row of the board says its couple."""
    rows, notes = [], []
    for made in couples(board):
        best, worst = made.best, made.worst
        for one in made.couples:
            gain = one.gain
            title = f"{made.method}: {one_line(made.pair)}"
            rows.append(
                Row(
                    (
                        Item(title, title.lower()),
                        Item(str(one.student_tap), one.student_tap),
                        Item(str(one.teacher_tap), one.teacher_tap),
                        _marked(spread_item(one.line.cells[made.pair].spread()), best=one is best),
                        Item(f"{gain.mean:+.2f}", gain.mean, shade=gain.mean) if gain else Item(NONE),
                        Item(p_words(one.p), one.p, best=sure(one.p)),
                    ),
                    one.line.kind,
                )
            )
        notes.append(_sentence(made, best, worst))
    base = _reference_words(board)
    notes += [
        "Taps: 0 is the stem, 1 the first stage. A couple guides one stage; SemCKD every stage by all of the teacher's."
        f" p: paired test over seeds against {base}, corrected for the couples of a pair (Holm)."
    ] * bool(rows)
    header = ["method: pair", "student's tap", "teacher's tap", "top-1 (%)", f"against {base}", "p (Holm)"]
    caption = f"Top-1 (%) by the couple of stages that is guided, {facts.seeds(board)}." if rows else ""
    return Table("mismatch", "Which stage guides which", header, rows, notes, caption=caption)


def _marked(item: Item, *, best: bool) -> Item:
    return Item(item.text, item.value, best=best)


def _reference(board: Board) -> Line | None:
    """SemCKD with its published weights, else with others, the first on the board; else the baseline."""
    others = (line for line in board.everything if {run.settings.method for run in line.runs} == {LEARNED})
    return board.line(LEARNED) or next(others, None) or board.line(board.baseline)


def _reference_words(board: Board) -> str:
    found = _reference(board)
    return plain(board.baseline, 60) if found is None else found.shown


def _sentence(made: Couples, best: Couple, worst: Couple) -> str:
    """What a wrong couple costs, and what the test says of it."""
    high, low = made.mean(best), made.mean(worst)
    words = (
        f"{plain(made.method, 60)} on {one_line(made.pair)}: the best of {count(len(made.couples), 'couple')} is"
        f" student {best.student_tap} by teacher {best.teacher_tap} ({high:.2f}), the worst {worst.student_tap} by"
        f" {worst.teacher_tap} ({low:.2f}): a wrong couple costs up to {high - low:.2f} points"
    )
    found = stats.gain([differences(best.line.cells[made.pair], worst.line.cells[made.pair])])
    if found is not None and found.low is not None:
        words += f" (95% interval {found.low:.2f} to {found.high:.2f}, of two that were chosen as extremes)"
    elif best is not worst:
        words += "; without seeds to repeat it, that is no test"
    if made.reference is not None and (spread := made.reference.cells[made.pair].spread()) is not None:
        above = [one for one in made.couples if one.gain and one.gain.mean < 0]
        certain = sum(sure(one.p) for one in above)
        words += (
            f". {made.reference.shown} reaches {spread.mean:.2f}, above {len(above)} of {len(made.couples)};"
            f" {certain or 'none'} of these {'is' if certain == 1 else 'are'} told apart from it at {SURE:.0%}"
        )
    return f"{words}."


def numbers(board: Board) -> pd.DataFrame:
    """The table as numbers, for ``mismatch.csv``."""
    rows = []
    for made in couples(board):
        for one in made.couples:
            spread, gain = one.line.cells[made.pair].spread(), one.gain
            assert spread is not None
            rows.append(
                {
                    "method": escape.csv(made.method),
                    "pair": escape.csv(":".join(made.pair)),
                    "student_tap": one.student_tap,
                    "teacher_tap": one.teacher_tap,
                    "mean": spread.mean,
                    "std": spread.std,
                    "n": spread.n,
                    "reference": escape.csv(made.reference.label) if made.reference else "",
                    "difference": gain and gain.mean,
                    "low": gain and gain.low,
                    "high": gain and gain.high,
                    "paired_runs": gain.runs if gain else 0,
                    "p": gain and gain.p,
                    "p_holm": one.p,
                }
            )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def figure(board: Board) -> Figure | None:
    """A map for each method on a pair: rows the student's taps, columns the teacher's."""
    every = couples(board)
    if not every:
        return None
    shown = every[:MOST_PANELS]
    cut = f" Shown: the first {MOST_PANELS} of {len(every)} maps." if len(every) > MOST_PANELS else ""
    rows, columns = grid_shape(len(shown))
    wide = max(len({one.teacher_tap for one in made.couples}) for made in shown)
    tall = max(len({one.student_tap for one in made.couples}) for made in shown)
    base = _reference_words(board)
    with drawing():
        drawn = canvas(
            max(6.4, 0.9 + columns * (0.9 + 0.95 * wide)),
            1.9 + rows * (1.0 + 0.55 * tall),
            "Which stage guides which" + quick_words(board),
            f"Top-1 (%), mean over seeds, by the couple of stages; below it the paired difference to {base} in points,"
            f" bold where it differs from zero at 5% (Holm, over the couples of a map). Blue: above {base}.{cut}",
            facts.footer(board),
        )
        axes = drawn.subplots(rows, columns, squeeze=False)
        limit = stats.colour_limit([one.gain.mean for made in shown for one in made.couples if one.gain])
        for axis, made in zip(axes.flat, shown, strict=False):
            _map(axis, made, limit)
        for axis in axes.flat[len(shown) :]:
            axis.set_visible(False)
    return drawn


def _map(axis: Axes, made: Couples, limit: float) -> None:
    ours, theirs = _taps(one.student_tap for one in made.couples), _taps(one.teacher_tap for one in made.couples)
    values = np.full((len(ours), len(theirs)), np.nan)
    for one in made.couples:
        values[ours.index(one.student_tap), theirs.index(one.teacher_tap)] = one.gain.mean if one.gain else 0.0
    image = axis.imshow(values, cmap="RdBu", vmin=-limit, vmax=limit, aspect="auto")
    for one in made.couples:
        row, column = ours.index(one.student_tap), theirs.index(one.teacher_tap)
        colour = readable_on(tuple(image.to_rgba(np.array([values[row, column]]))[0][:3]))
        below = f"\n{one.gain.mean:+.2f}" if one.gain else ""
        axis.text(
            column,
            row,
            f"{made.mean(one):.2f}{below}",
            ha="center",
            va="center",
            fontsize=8,
            color=colour,
            weight="bold" if sure(one.p) else "normal",
        )
    reference = made.reference and made.reference.cells[made.pair].spread()
    said = f"\n{made.reference.shown} {reference.mean:.2f}" if made.reference and reference else ""
    axis.set_title(f"{plain(made.method, 30)}: {pair_title(made.pair)}{said}", fontsize=8.5)
    axis.set_xticks(range(len(theirs)), [f"teacher {tap}" for tap in theirs])
    axis.set_yticks(range(len(ours)), [f"student {tap}" for tap in ours])
    axis.tick_params(length=0, labelsize=7.5, colors=SOFT)
    for spine in axis.spines.values():
        spine.set_visible(False)


def _taps(found: Iterable[int]) -> list[int]:
    return sorted(set(found))
