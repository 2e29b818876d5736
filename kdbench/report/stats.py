"""The statistics of a table: means, paired intervals, average ranks, relative improvement.

Methods of one seed share initial weights and batches, so every comparison here is paired by (pair, seed).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import stats

LEVEL = 0.95
RESAMPLES = 2000
FEWEST_BLOCKS = 4  # resampling fewer shows next to no spread, which is not certainty
SMALLEST_GAIN = 0.1  # percentage points; a relative improvement over less is noise divided by noise

Array = NDArray[np.float64]


class Spread(NamedTuple):
    """Mean of n runs, their standard deviation (n - 1 in the denominator) and the half width of its interval."""

    mean: float
    std: float | None
    n: int
    half: float | None


class Gain(NamedTuple):
    """Mean paired difference with its 95% interval; None where the seeds are too few."""

    mean: float
    low: float | None
    high: float | None
    pairs: int
    runs: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


class Rank(NamedTuple):
    """Average rank over pairs, 1 is best, with its bootstrap interval."""

    mean: float
    low: float | None
    high: float | None


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
    return Spread(float(np.mean(values)), std, n, float(_quantile(n - 1)) * std / math.sqrt(n))


def gain(differences: Sequence[Sequence[float]]) -> Gain | None:
    """Mean over pairs of the mean paired difference over seeds.

    The pairs are the suite's and fixed, the seeds are drawn: the interval comes from the variance of the
    differences within pairs, pooled. For one pair it is the paired t interval.

    Args:
        differences: for each pair, method minus baseline for each seed that both have; empty ones are skipped.

    """
    groups = [np.asarray(group, dtype=float) for group in differences if len(group)]
    if not groups:
        return None
    runs = sum(map(len, groups))
    mean = float(np.mean([group.mean() for group in groups]))
    free = runs - len(groups)
    if not free:
        return Gain(mean, None, None, len(groups), runs)
    pooled = sum(float(((group - group.mean()) ** 2).sum()) for group in groups) / free
    error = math.sqrt(pooled * sum(1 / len(group) for group in groups)) / len(groups)
    half = float(_quantile(free)) * error
    return Gain(mean, mean - half, mean + half, len(groups), runs)


def average_ranks(blocks: Mapping[tuple[str, int], Sequence[float]], resamples: int = RESAMPLES) -> list[Rank]:
    """Rank of each method on each pair by its mean over seeds, averaged over pairs.

    Args:
        blocks: (pair, seed) -> accuracy of every method, always in the same order.
        resamples: how often the blocks are drawn anew for the interval; the draw is seeded.

    Returns:
        One per method; without interval where the blocks are fewer than four.

    """
    keys = sorted(blocks)
    scores = np.array([blocks[key] for key in keys], dtype=float)  # (blocks, methods)
    pairs = sorted({pair for pair, _ in keys})
    member = np.array([[pair == key[0] for key in keys] for pair in pairs], dtype=float)  # (pairs, blocks)
    whole = _mean_ranks(np.ones((1, len(keys))), member, scores)[0]
    if len(keys) < FEWEST_BLOCKS:
        return [Rank(float(mean), None, None) for mean in whole]
    draw = np.random.default_rng(0).multinomial(len(keys), np.full(len(keys), 1 / len(keys)), size=resamples)
    drawn = _mean_ranks(draw.astype(float), member, scores)
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return [Rank(float(m), float(a), float(b)) for m, a, b in zip(whole, low, high, strict=True)]


def _mean_ranks(counts: Array, member: Array, scores: Array) -> Array:
    """(draws, blocks), (pairs, blocks), (blocks, methods) -> (draws, methods)."""
    weight = counts[:, None, :] * member[None]  # (draws, pairs, blocks)
    total = weight.sum(axis=2)  # (draws, pairs)
    means = (weight @ scores) / np.maximum(total, 1)[..., None]
    # Sums in another order differ in the last bits; equal accuracies must stay ties.
    ranks = stats.rankdata(-means.round(9), axis=2)
    drawn = (total > 0)[..., None]
    return (ranks * drawn).sum(axis=1) / drawn.sum(axis=1)


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
    if scores.shape[0] < 2 or scores.shape[1] < 3:
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


def _quantile(free: int) -> float:
    return float(stats.t.ppf((1 + LEVEL) / 2, free))
