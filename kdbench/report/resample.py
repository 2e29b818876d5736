"""Average ranks, how far chance moves them, and how often a method would come out first.

The seeds of each student are drawn anew (scipy's bootstrap), each student keeping as many as it has and all its pairs
the same ones: no draw loses a student, and runs that two columns share are drawn once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from kdbench.report.stats import LEVEL, Array

RESAMPLES = 2000
FEWEST_BLOCKS = 4  # resampling fewer shows next to no spread, which is not certainty


class Rank(NamedTuple):
    """Average rank over pairs, 1 is best, its bootstrap interval and the share of draws in which it is the best."""

    mean: float
    low: float | None
    high: float | None
    best: float | None


class _PairScores(NamedTuple):
    """One pair: which seeds of its student it has, and the methods' accuracies for them, (seeds, methods)."""

    has: list[int]
    scores: Array


def average_ranks(
    blocks: Mapping[tuple[str, int], Sequence[float]],
    students: Mapping[str, str] | None = None,
    resamples: int = RESAMPLES,
) -> list[Rank]:
    """Rank of each method on each pair by its mean over seeds, averaged over pairs.

    Args:
        blocks: (pair, seed) -> accuracy of every method, always in the same order.
        students: pair -> its student; None says that all differ.
        resamples: how often the seeds are drawn anew for the interval; the draw is seeded.

    Returns:
        One per method; without interval where a student has one seed or all together have fewer than four.
    """
    if not blocks:
        return []
    groups, sizes = _by_student(blocks, students or {})
    whole = _mean_ranks([np.arange(size)[None] for size in sizes], groups)[0]
    if min(sizes) < 2 or sum(sizes) < FEWEST_BLOCKS or len(whole) < 2:
        return [Rank(float(mean), None, None, None) for mean in whole]

    def ranks(*drawn: Any, axis: int = -1) -> Array:
        """Draws (..., seeds) of each student -> (methods, ...)."""
        return np.moveaxis(_mean_ranks([np.atleast_2d(one) for one in drawn], groups), -1, 0)

    found: Any = stats.bootstrap(
        [np.arange(size) for size in sizes],
        ranks,
        n_resamples=resamples,
        batch=500,
        vectorized=True,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    drawn = found.bootstrap_distribution  # (methods, draws)
    first = np.isclose(drawn, drawn.min(axis=0))
    best = (first / first.sum(axis=0)).mean(axis=1)  # equal ones share
    low, high = (np.atleast_1d(np.squeeze(end)) for end in found.confidence_interval)
    return [Rank(*map(float, one)) for one in zip(whole, low, high, best, strict=True)]


def _by_student(
    blocks: Mapping[tuple[str, int], Sequence[float]], students: Mapping[str, str]
) -> tuple[list[list[_PairScores]], list[int]]:
    """Pairs grouped by student, and each student's number of seeds."""
    seeds: dict[str, dict[str, list[int]]] = {}
    for pair, seed in sorted(blocks):
        seeds.setdefault(students.get(pair, pair), {}).setdefault(pair, []).append(seed)
    groups, sizes = [], []
    for pairs in seeds.values():
        every = sorted({seed for own in pairs.values() for seed in own})
        place = {seed: number for number, seed in enumerate(every)}
        sizes.append(len(every))
        groups.append(
            [
                _PairScores([place[seed] for seed in own], np.array([blocks[pair, seed] for seed in own], dtype=float))
                for pair, own in pairs.items()
            ]
        )
    return groups, sizes


def _mean_ranks(drawn: Sequence[Any], groups: Sequence[Sequence[_PairScores]]) -> Array:
    """For each student the places of the drawn seeds, (draws, seeds) -> (draws, methods)."""
    total, count = 0.0, 0
    for places, pairs in zip(drawn, groups, strict=True):
        size = places.shape[-1]
        times = (places[..., None] == np.arange(size)).sum(axis=-2).astype(float)  # (draws, seeds)
        for pair in pairs:
            own = times[..., pair.has]
            own = np.where(own.sum(axis=-1, keepdims=True) > 0, own, 1.0)  # a draw of other seeds alone: all of its own
            means = own @ pair.scores / own.sum(axis=-1, keepdims=True)
            # Sums in another order differ in the last bits; equal accuracies must stay ties.
            total = total + stats.rankdata(-means.round(9), axis=-1)
            count += 1
    return np.asarray(total) / count
