"""Published and tuned weights side by side, and what tuning saw of each weight on its way.

The rows are those of the board: ``semckd`` has the published weight, ``semckd@tuned`` the one that `kdbench tune`
chose. The trials are read from the files that it left in ``<out>/tuned``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from kdbench.record import runs_folder, safe_name
from kdbench.report import escape, facts, stats
from kdbench.report.board import Board, Line, differences
from kdbench.report.compare import ALL
from kdbench.report.escape import plain
from kdbench.report.items import NONE, Item, Row, Table, count, gain_item, one_line, p_words, spread_item, sure
from kdbench.report.stats import Gain
from kdbench.report.teacherless import Pair
from kdbench.utils.tuning_file import Trial, Tuned, read, under

MARK = "@tuned"
COLUMNS = (
    "method", "pair", "published_values", "tuned_values", "published_mean", "published_n", "tuned_mean", "tuned_n",
    "difference", "low", "high", "paired_runs", "p", "p_holm",
)  # fmt: skip
TRIALS = ("method", "pair", "values", "factor", "published", "chosen", "seed", "val_top1", "why_not")
#: Factors that tuning usually tries.
FACTORS = (1 / 100, 1 / 10, 1 / 3, 1.0, 3.0, 10.0)
#: Choices at an end of their search that are named.
ENDS = 6
#: Files of one suite that are read; a choice has a method and a pair.
MOST = 20_000


@dataclass(frozen=True)
class Couple:
    """A method with its published and its tuned weight, on one pair or over all (None)."""

    published: Line
    tuned: Line
    pair: Pair | None
    gain: Gain


def choices(out: Path, suite: str, pairs: Iterable[Pair] | None = None) -> tuple[list[Tuned], list[str]]:
    """What tuning has chosen for a suite, by method and pair, and a sentence for each file that is none.

    Args:
        out: the output folder.
        suite: its name.
        pairs: only these, and students of these; None: all.
    """
    home = out / "tuned"
    place = home / runs_folder(home, suite, "", "x").relative_to(home / "runs").parent
    if safe_name(suite) in ("runs", "students", "assistants") or not place.is_dir():
        return [], []
    wanted = None if pairs is None else set(pairs)
    students = {student for _, student in wanted or ()}
    found, problems = [], []
    for file in sorted(place.glob("*/*.json"))[:MOST]:
        if file.name.startswith("."):
            continue
        try:
            one = read(file)
        except FileNotFoundError:
            continue  # taken away by a run that goes on beside us
        except ValueError as error:
            problems.append(plain(error, 600))
            continue
        mine = wanted is None or (one.teacher, one.student) in wanted or (not one.teacher and one.student in students)
        if one.suite == suite and mine:
            found.append(one)
    return sorted(found, key=lambda one: (one.method, one.pair)), problems


def couples(board: Board) -> list[Couple]:
    """Every method that is there with both weights: on each pair, then over all pairs where these are several."""
    made = []
    for tuned in board.everything:
        name, mark, rest = tuned.label.partition(MARK)
        published = board.line(name + rest)
        if not mark or published is None:
            continue
        apart = {pair: differences(tuned.cells[pair], published.cells[pair]) for pair in board.pairs}
        here = [pair for pair in board.pairs if apart[pair]]
        for pair in here:
            if gain := stats.gain([apart[pair]]):
                made.append(Couple(published, tuned, pair, gain))
        whole = stats.gain([apart[pair] for pair in here], [student for _, student in here]) if len(here) > 1 else None
        if whole:
            made.append(Couple(published, tuned, None, whole))
    return sorted(made, key=lambda one: one.published.label.lower())


def kept(board: Board, chosen: Sequence[Tuned]) -> list[tuple[Line, Pair, str]]:
    """Methods with tuned weights alone on a pair, whose choice there was the published one: both are the same runs."""
    by_place = {(one.method, one.teacher, one.student): one for one in chosen}
    found = []
    for line in board.everything:
        name, mark, rest = line.label.partition(MARK)
        if not mark or rest:
            continue
        published = board.line(name)
        for pair in board.pairs:
            if published is not None and published.cells[pair].by_seed:
                continue
            usual, tuned = _values(name, pair, by_place)
            if usual and tuned == usual and line.cells[pair].by_seed:
                found.append((line, pair, _arrows(usual, tuned)))
    return found


def corrected(made: Sequence[Couple]) -> list[float | None]:
    """p of each couple, corrected for the number of pairs with a method, and of methods over all pairs (Holm)."""
    found: list[float | None] = [None] * len(made)
    for over_all in (False, True):
        places = [place for place, one in enumerate(made) if (one.pair is None) is over_all]
        for place, p in zip(places, stats.holm([made[place].gain.p for place in places]), strict=True):
            found[place] = p
    return found


def often(chosen: Sequence[Tuned]) -> str:
    """How often the published weight was the choice, as a sentence; empty where nothing was chosen."""
    decided = [one for one in chosen if one.choice]
    if not decided:
        return ""
    kept = sum(any(trial.published and trial.values == one.choice for trial in one.trials) for one in decided)
    end = "" if len(decided) == len(chosen) else f"; in {len(chosen) - len(decided)} more no trial came to its end"
    return (
        f"The published weight was the choice of {kept} of {count(len(decided), 'tuning')}"
        f" ({100 * kept / len(decided):.0f}%), each among {_range(len(one.trials) for one in decided)} candidates, by"
        f" validation accuracy{end}."
    )


def at_the_end(chosen: Sequence[Tuned]) -> str:
    """Which choices lie at an end of what was tried, as a sentence; empty where none does.

    Candidates that failed count: beyond a weight that diverges there is nothing to look for.
    """
    found = []
    for one in chosen:
        tried = {by: trial.values for trial in one.trials if (by := factor(one, trial)) is not None}
        scaled = len(tried) == len(one.trials) > 1
        if one.choice and scaled and one.choice in (tried[min(tried)], tried[max(tried)]):
            found.append(f"{plain(one.method, 60)} ({_said(one.choice)}) on {plain(one.pair, 60)}")
    if not found:
        return ""
    more = f" and {len(found) - ENDS} more" if len(found) > ENDS else ""
    return f"A wider search may find better where the choice lies at an end of it: {', '.join(found[:ENDS])}{more}."


def shorter(chosen: Sequence[Tuned], epochs: int) -> str:
    """That trials were shorter than runs of so many epochs; empty where they were not."""
    lengths = [one.budget.epochs for one in chosen if one.budget.epochs < epochs]
    if not lengths:
        return ""
    return (
        f"Trials had {_range(lengths)} of the runs' {count(epochs, 'epoch')}:"
        " a weight that is best early need not be best late."
    )


def elsewhere(board: Board, chosen: Sequence[Tuned]) -> str:
    """That weights were tuned under another recipe, in another precision or on fewer images than the rows; or empty."""
    by_place = {(one.method, one.pair): one for one in chosen}
    found = []
    for line in board.everything:
        name, mark, rest = line.label.partition(MARK)
        for run in (run for cell in line.cells.values() for run in cell.runs) if mark else ():
            its = run.settings
            if one := by_place.get((name + rest, its.pair)):
                unlike = one.unlike(its.recipe, its.precision, its.limit_train, its.epochs)
                found += [(word, name + rest) for word in unlike]
    return plain(said, 600) + "." if (said := under(found)) else ""


def summary(chosen: Sequence[Tuned], epochs: int) -> str:
    """How often the published weight was the choice, and where the search may have been too narrow or too short."""
    return " ".join(filter(None, (often(chosen), shorter(chosen, epochs), at_the_end(chosen))))


def _range(numbers: Iterable[int]) -> str:
    found = sorted(set(numbers))
    return str(found[0]) if len(found) == 1 else f"{found[0]} to {found[-1]}"


def table(board: Board, chosen: Sequence[Tuned]) -> Table:
    """Published weight, tuned weight and their paired difference; no rows where no method has both."""
    made = couples(board)
    by_place = {(one.method, one.teacher, one.student): one for one in chosen}
    rows = []
    for one, p in zip(made, corrected(made), strict=True):
        pair = "all pairs" if one.pair is None else one_line(one.pair)
        items = (
            Item(f"{one.published.shown}: {pair}", one.published.label.lower()),
            *(_accuracy(board, one, line) for line in (one.published, one.tuned)),
            gain_item(one.gain, p=p),
            Item(p_words(p), p, best=sure(p)),
            Item(_moved(one, by_place) or NONE),
        )
        rows.append(Row(items, one.published.kind))
    for line, taught, weights in kept(board, chosen):
        accuracy = spread_item(line.cells[taught].spread())
        name = line.shown.replace(MARK, "", 1)
        label = Item(f"{name}: {one_line(taught)}", name.lower())
        rows.append(Row((label, accuracy, accuracy, Item("the same runs"), Item(NONE), Item(weights)), line.kind))
    rows.sort(key=lambda row: str(row.items[0].value))
    notes = [
        f"Tuned minus published, seed by seed, in points of test accuracy, {facts.RULE_WORDS[board.rule]},"
        f" {facts.seeds(board)}; 95% interval; *: differs from zero at 5%, corrected for the number of pairs (Holm)."
        " Weights were chosen on held-out training images, with other seeds than these."
    ]
    if sentence := " ".join(filter(None, (summary(chosen, board.selection.epochs), elsewhere(board, chosen)))):
        notes.append(sentence)
    header = ["method: pair", "published", "tuned", "tuned - published", "p (Holm)", "weights"]
    caption = f"Published and tuned weights: top-1 (%) and paired difference, {facts.seeds(board)}."
    return Table("tuned", "Published and tuned weights", header, rows, notes, caption=caption if rows else "")


def _accuracy(board: Board, one: Couple, line: Line) -> Item:
    if one.pair is not None:
        return spread_item(line.cells[one.pair].spread())
    mean = line.mean(pairs=_both(board, one))
    return Item(NONE if mean is None else f"{mean:.2f}", mean)


def _both(board: Board, one: Couple) -> list[Pair]:
    pairs = board.pairs if one.pair is None else [one.pair]
    return [pair for pair in pairs if all(line.cells[pair].by_seed for line in (one.published, one.tuned))]


def _moved(one: Couple, chosen: Mapping[tuple[str, str, str], Tuned]) -> str:
    """``beta 400 → 40``, ``beta 400 (kept)``; empty over all pairs and where no file says."""
    return _arrows(*_weights(one, chosen))


def _arrows(usual: Mapping[str, Any], tuned: Mapping[str, Any]) -> str:
    return plain(
        ", ".join(
            f"{name} {_number(value)}" + (f" → {_number(tuned[name])}" if tuned[name] != value else " (kept)")
            for name, value in usual.items()
        ),
        120,
    )


def _weights(one: Couple, chosen: Mapping[tuple[str, str, str], Tuned]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Published and chosen values of what was tuned; none over all pairs and where no file says."""
    return ({}, {}) if one.pair is None else _values(one.published.label, one.pair, chosen)


def _values(
    label: str, pair: Pair, chosen: Mapping[tuple[str, str, str], Tuned]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Published and chosen values of what was tuned for a method on a pair; none where no file says."""
    places = ((name, *taught) for name in (label, label.partition("[")[0]) for taught in (pair, ("", pair[1])))
    found = next((chosen[place] for place in places if place in chosen), None)
    if found is None or not found.trials:
        return {}, {}
    usual = {key: found.published[key] for key in found.trials[0].values if key in found.published}
    return usual, usual | found.choice


def _said(values: Mapping[str, Any]) -> str:
    return plain(", ".join(f"{name}={_number(value)}" for name, value in values.items()), 120)


def _number(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else plain(value, 40)


def side_by_side(board: Board, chosen: Sequence[Tuned]) -> pd.DataFrame:
    """The table as numbers; ``all`` in the place of a pair is the mean over those that have both."""
    made = couples(board)
    by_place = {(one.method, one.teacher, one.student): one for one in chosen}
    rows = []
    for one, p in zip(made, corrected(made), strict=True):
        both = _both(board, one)
        usual, tuned = _weights(one, by_place)
        rows.append(
            {
                "method": escape.csv(one.published.label),
                "pair": escape.csv(":".join(one.pair)) if one.pair else ALL,
                "published_values": escape.csv(_said(usual)),
                "tuned_values": escape.csv(_said(tuned)),
                "published_mean": one.published.mean(pairs=both),
                "published_n": sum(len(one.published.cells[pair].by_seed) for pair in both),
                "tuned_mean": one.tuned.mean(pairs=both),
                "tuned_n": sum(len(one.tuned.cells[pair].by_seed) for pair in both),
                "difference": one.gain.mean,
                "low": one.gain.low,
                "high": one.gain.high,
                "paired_runs": one.gain.runs,
                "p": one.gain.p,
                "p_holm": p,
            }
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def factor(one: Tuned, trial: Trial) -> float | None:
    """By what a candidate scales every published value that it sets; None: not by one number."""
    found = set(factors(one, trial))
    return found.pop() if len(found) == 1 else None


def factors(one: Tuned, trial: Trial) -> list[float]:
    """By what a candidate scales each published value that it sets; none where one of them is not scaled."""
    found = []
    for name, value in trial.values.items():
        usual = one.published.get(name)
        numbers = all(isinstance(v, int | float) and not isinstance(v, bool) for v in (value, usual))
        if not numbers or not usual or not math.isfinite(float(value)) or float(value) / float(usual) <= 0:
            return []
        found.append(_snapped(float(value) / float(usual)))
    return found


def _snapped(by: float) -> float:
    """The factor that was meant: values are rounded to three digits when they are scaled."""
    return next((usual for usual in FACTORS if abs(by / usual - 1) < 0.01), float(f"{by:.3g}"))


def trials(chosen: Sequence[Tuned]) -> pd.DataFrame:
    """Every trial with every seed: what was tried, by what it scales the published weight, validation accuracy."""
    rows = [
        {
            "method": escape.csv(one.method),
            "pair": escape.csv(one.pair),
            "values": escape.csv(_said(trial.values)),
            "factor": factor(one, trial),
            "published": trial.published,
            "chosen": bool(one.choice) and trial.values == one.choice,
            "seed": score.seed,
            "val_top1": score.val_top1,
            "why_not": escape.csv(plain(score.reason, 300)),
        }
        for one in chosen
        for trial in one.trials
        for score in trial.scores
    ]
    return pd.DataFrame(rows, columns=list(TRIALS))
