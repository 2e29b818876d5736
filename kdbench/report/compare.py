"""Every method against every other, and what the ranks of so few pairs can tell apart."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats as scipy_stats

from kdbench.report import escape, stats
from kdbench.report.board import Board, Line, differences
from kdbench.report.items import count, sure
from kdbench.report.teacherless import Pair

COLUMNS = ("pair", "method", "other", "difference", "low", "high", "paired_runs", "blocks", "p", "p_holm")
ALL = "all"  # in the place of a pair


def every_two(board: Board) -> pd.DataFrame:
    """Paired differences of every two methods, on each pair and over all: method minus other, in points.

    ``p_holm`` is corrected for all comparisons on the same pair (Holm). ``blocks`` are the students with a seed that
    vary independently. Without interval and p where the seeds are too few or the differences all equal.
    """
    if board.every_two is None:
        board.every_two = _every_two(board)
    found: pd.DataFrame = board.every_two
    return found


def _every_two(board: Board) -> pd.DataFrame:
    lines = [line for line in board.everything if line.runs]
    rows: list[dict[str, Any]] = []
    for pair in [None, *board.pairs] if len(board.pairs) > 1 else board.pairs:
        found = list(_over_all(board, lines) if pair is None else _on_one(lines, pair))
        for row, p in zip(found, stats.holm([row["p"] for row in found]), strict=True):
            row["p_holm"] = p
        rows += found
    for row in rows:
        row |= {name: escape.csv(row[name]) for name in ("pair", "method", "other")}
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _on_one(lines: list[Line], pair: Pair) -> Iterator[dict[str, Any]]:
    """The paired t test of `stats.gain`, for all at once."""
    lines = [line for line in lines if line.cells[pair].by_seed]
    seeds = sorted({seed for line in lines for seed in line.cells[pair].by_seed})
    scores = np.array([[line.cells[pair].by_seed.get(seed, np.nan) for seed in seeds] for line in lines])
    two = list(combinations(range(len(lines)), 2))
    if not two:
        return
    first, second = np.array(two).T
    apart = scores[first] - scores[second]  # (comparisons, seeds)
    there = np.isfinite(apart)
    n = there.sum(axis=1)
    mean = np.where(there, apart, 0).sum(axis=1) / np.maximum(n, 1)
    squares = (np.where(there, apart - mean[:, None], 0) ** 2).sum(axis=1)
    error = np.sqrt(squares / np.maximum(n - 1, 1) / np.maximum(n, 1))
    known = (n > 1) & (error > 1e-9)
    free = np.maximum(n - 1, 1)
    half = scipy_stats.t.ppf((1 + stats.LEVEL) / 2, free) * error
    p = 2 * scipy_stats.t.sf(np.abs(mean) / np.where(known, error, 1), free)
    name = ":".join(pair)
    for number, (one, other) in enumerate(two):
        if n[number]:
            middle, wide, sure = float(mean[number]), float(half[number]), bool(known[number])
            yield {
                "pair": name,
                "method": lines[one].label,
                "other": lines[other].label,
                "difference": middle,
                "low": middle - wide if sure else None,
                "high": middle + wide if sure else None,
                "paired_runs": int(n[number]),
                "blocks": int(n[number]),
                "p": float(p[number]) if sure else None,
            }


def _over_all(board: Board, lines: list[Line]) -> Iterator[dict[str, Any]]:
    students = [student for _, student in board.pairs]
    for one, other in combinations(lines, 2):
        found = stats.gain([differences(one.cells[pair], other.cells[pair]) for pair in board.pairs], students)
        if found is not None:
            yield {
                "pair": ALL,
                "method": one.label,
                "other": other.label,
                "difference": found.mean,
                "low": found.low,
                "high": found.high,
                "paired_runs": found.runs,
                "blocks": found.blocks,
                "p": found.p,
            }


def behind_the_leader(board: Board) -> str:
    """Who is told apart from the best average rank by the paired test, and who is not; "" without a ranking."""
    compared = [line for line in board.everything if line.kind == "ranked" and line.rank is not None]
    if len(compared) < 2:
        return ""
    leader, others = compared[0], compared[1:]
    frame = every_two(board)
    frame = frame[frame["pair"] == (ALL if len(board.pairs) > 1 else escape.csv(":".join(board.pairs[0])))]
    found: dict[object, tuple[float, float]] = {}  # p, and how far the leader is above
    own = escape.csv(leader.label)
    columns = (frame[name] for name in ("method", "other", "p_holm", "difference"))
    for method, other, p, apart in zip(*columns, strict=True):
        if own in (method, other) and p is not None and not np.isnan(p):
            found[other if method == own else method] = float(p), float(apart if method == own else -apart)
    level = [line.shown for line in others if line.rank == leader.rank]
    best = f"{leader.shown}, which has the best average rank" + (f" with {_listed(level)}" if level else "")
    tested = [line for line in others if escape.csv(line.label) in found]
    if not tested:
        repeated = any(len(cell.by_seed) > 1 for line in compared for cell in line.cells.values())
        why = (
            "the differences that can be paired are the same in every seed, and have no spread to be tested against"
            if repeated
            else "without seeds to repeat it, a difference is no finding"
        )
        return f"Nothing is told apart from {best}: {why}"
    sound = [(line, found[escape.csv(line.label)]) for line in tested]
    below = [line.shown for line, (p, apart) in sound if sure(p) and apart > 0]
    above = [line.shown for line, (p, apart) in sound if sure(p) and apart <= 0]
    alike = [line.shown for line in others if line.shown not in below + above]
    where = "over all pairs" if len(board.pairs) > 1 else "on the pair"
    how = "paired test over seeds, every two methods, Holm, 5%"
    higher = f"; in the mean above it, told apart: {_listed(above)}" if above else ""
    if not alike and not above:
        return f"{leader.shown} is told apart from every other method {where} (paired test, every two methods, Holm)"
    told = f"told apart: {_listed(below) or 'none'}{higher} ({how})"
    return f"Not told apart from {best}, {where}: {_listed(alike) or 'none'}; {told}"


def _listed(names: list[str]) -> str:
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


@dataclass(frozen=True)
class Separation:
    """What Nemenyi's test tells apart among the ranked methods."""

    sentence: str
    distance: float | None  # average ranks that differ by less are not told apart; None: none are
    friedman: float | None  # p of "all methods are alike"


def separation(board: Board) -> Separation | None:
    """The test over the ranked methods; None for fewer than three.

    Students are its independent data sets: pairs that share one, share runs. Where there is one student alone, its
    seeds are.
    """
    lines = [line for line in board.everything if line.kind == "ranked" and line.rank is not None]
    if len(lines) < 3 or not board.blocks:
        return None
    pairs = len(board.ranked_pairs)
    students = len({student for _, student in board.ranked_pairs})
    seeds = len({seed for _, seed in board.blocks})
    units = students if students > 1 else seeds
    words = count(pairs, "pair") + (f" of {count(students, 'student')}" if students != pairs else "")
    beyond = " for pairs beyond these" if students > 1 else ""
    if students == 1:
        words = f"{count(seeds, 'seed')} of one student"
    means = [line.rank.mean for line in lines if line.rank]
    # Of two blocks the test knows no distribution that its p could be read from.
    p = stats.friedman(_unit_scores(board, lines, by_student=students > 1)) if units > 2 else None
    distance = stats.critical_difference(len(lines), units)
    if distance >= max(means) - min(means):
        return Separation(f"{words} cannot separate {len(lines)} methods{beyond} (Nemenyi's test at 5%)", None, p)
    sentence = (
        f"average ranks that differ by less than {distance:.2f} are not told apart by {words} (Nemenyi's test at 5%)"
    )
    return Separation(sentence, distance, p)


def _unit_scores(board: Board, lines: list[Line], *, by_student: bool) -> list[list[float]]:
    """For each student, or each seed where there is one student, the methods' average rank, best highest."""
    student = {":".join(pair): pair[1] for pair in board.ranked_pairs}
    groups: dict[tuple[Any, str], list[list[float]]] = {}
    for (pair, seed), found in board.blocks.items():
        unit = student[pair] if by_student else seed
        groups.setdefault((unit, pair), []).append([found[line.label] for line in lines])
    units: dict[Any, list[Any]] = {}
    for (unit, _), scores in groups.items():
        units.setdefault(unit, []).append(scipy_stats.rankdata(np.mean(scores, axis=0).round(9)))
    return [np.mean(ranks, axis=0).tolist() for ranks in units.values()]
