"""The statistics of a table: means, paired intervals, relative improvement, tests over many methods.

Methods of one seed share initial weights and batches, so every comparison is paired by seed. Runs of one student
and seed share more: a method without a teacher is one run in all columns of that student. So the unit that varies by
chance is a *block*, a student with a seed, and never a pair with a seed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
SMALLEST_GAIN = 0.1  # percentage points; a relative improvement over less is noise divided by noise

Array = NDArray[np.float64]


class Spread(NamedTuple):
    """Mean of n runs, their standard deviation (n - 1 in the denominator) and the half width of its interval."""

    mean: float
    std: float | None
    n: int
    half: float | None


class Gain(NamedTuple):
    """Mean paired difference with its 95% interval and p value; None where the seeds are too few or all agree."""

    mean: float
    low: float | None
    high: float | None
    p: float | None
    pairs: int
    runs: int  # paired runs, over all pairs
    blocks: int  # students with a seed: what is independent of each other


class Ari(NamedTuple):
    """Average relative improvement in percent over ``used`` pairs; ``excluded`` had no gain to divide by."""

    value: float | None
    used: int
    excluded: int


def spread(values: Sequence[float]) -> Spread:
    """Mean, standard deviation and half width of Student's interval; absent for one value."""
    n = len(values)
    if n < 2:
        return Spread(float(values[0]), None, n, None)
    std = float(np.std(values, ddof=1))
    return Spread(float(np.mean(values)), std, n, float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * std / math.sqrt(n))


def gain(differences: Sequence[Mapping[int, float]], students: Sequence[str] | None = None) -> Gain | None:
    """Mean over pairs of the mean paired difference over seeds.

    The pairs are the suite's and fixed, the seeds are drawn. All pairs of a student with one seed are one block,
    whose differences are averaged before their spread is taken; the variance between blocks of a student is pooled
    over the students. For one pair this is the paired t interval.

    Args:
        differences: for each pair, seed -> method minus baseline; empty ones are skipped.
        students: the student of each pair; None says that all differ.

    Returns:
        None without any difference.
    """
    names = students or [str(number) for number in range(len(differences))]
    groups: dict[str, list[Mapping[int, float]]] = {}
    for student, group in zip(names, differences, strict=True):
        if group:
            groups.setdefault(student, []).append(group)
    pairs = sum(map(len, groups.values()))
    if not pairs:
        return None
    mean = sum(_mean(group) for own in groups.values() for group in own) / pairs
    runs = sum(len(group) for own in groups.values() for group in own)
    squares, free, weight, blocks = 0.0, 0, 0.0, 0
    for own in groups.values():
        rest: dict[int, float] = {}
        for group in own:
            middle = _mean(group)
            for seed, value in group.items():
                rest[seed] = rest.get(seed, 0.0) + (value - middle) / len(own)
        squares += sum(value * value for value in rest.values())
        free += len(rest) - 1
        blocks += len(rest)
        weight += (len(own) / pairs) ** 2 / len(rest)
    error = math.sqrt(squares / free * weight) if free else 0.0
    if error < 1e-9:  # nothing is repeated, or all seeds agree to the last bit: no spread to measure with
        return Gain(mean, None, None, None, pairs, runs, blocks)
    half = float(stats.t.ppf((1 + LEVEL) / 2, free)) * error
    return Gain(mean, mean - half, mean + half, 2 * float(stats.t.sf(abs(mean) / error, free)), pairs, runs, blocks)


def _mean(group: Mapping[int, float]) -> float:
    return sum(group.values()) / len(group)


def holm(found: Sequence[float | None]) -> list[float | None]:
    """p values corrected for their number (Holm, 1979): each may be compared with 5% as if it stood alone.

    Those that are None are not counted and stay None.
    """
    order = sorted((p, place) for place, p in enumerate(found) if p is not None)
    corrected: list[float | None] = [None] * len(found)
    largest = 0.0
    for number, (p, place) in enumerate(order):
        largest = max(largest, min(1.0, p * (len(order) - number)))
        corrected[place] = largest
    return corrected


def ari(best: Sequence[float], other: Sequence[float], student: Sequence[float]) -> Ari:
    """Average relative improvement of ``best`` over ``other``, 100 (best - other) / (other - student).

    Defined by Chen et al., SemCKD, AAAI 2021. Where the other method gains less than 0.1 points over
    the plain student, or hurts, the ratio says nothing: such pairs are excluded and counted.

    Args:
        best, other, student: mean accuracy for each pair, in percent.

    """
    parts = [100 * (b - o) / (o - s) for b, o, s in zip(best, other, student, strict=True) if o - s >= SMALLEST_GAIN]
    value = float(np.mean(parts)) if parts else None
    return Ari(value, len(parts), len(best) - len(parts))


def friedman(ranked: Sequence[Sequence[float]]) -> float | None:
    """p value of "all methods are alike" from (blocks, methods); None where it is not defined."""
    scores = np.asarray(ranked, dtype=float)
    if scores.ndim < 2 or scores.shape[0] < 2 or scores.shape[1] < 3:
        return None
    with np.errstate(invalid="ignore", divide="ignore"):
        p = float(stats.friedmanchisquare(*scores.T).pvalue)
    return p if math.isfinite(p) else None


def critical_difference(methods: int, blocks: int) -> float:
    """Nemenyi: average ranks that differ by less are not told apart at 5%."""
    q = float(stats.studentized_range.ppf(LEVEL, methods, math.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * blocks))


def colour_limit(gains: Sequence[float]) -> float:
    """The gain with the strongest colour: a cell that broke down must not drain the colour from all others."""
    sizes = np.abs(np.asarray(gains, dtype=float))
    if not len(sizes):
        return 1.0
    return max(min(float(np.quantile(sizes, 0.95)), 3 * float(np.median(sizes))), 0.5)
