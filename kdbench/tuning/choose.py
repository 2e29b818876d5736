"""Which candidates are tried, and which one is chosen: pure functions of values and validation accuracies."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from kdbench.run.tuned import Trial


def distance(values: Mapping[str, Any], published: Mapping[str, Any], places: int) -> float:
    """How far a candidate is from the published values: factors in natural logarithms, summed.

    ``places`` counts how far apart they stand in the search space, for values that are no positive numbers.
    """
    pairs = [(value, published[name]) for name, value in values.items()]
    if all(isinstance(v, int | float) and not isinstance(v, bool) and v > 0 for pair in pairs for v in pair):
        return sum(abs(math.log(value / usual)) for value, usual in pairs)
    return float(abs(places))


def ordered(space: Sequence[Mapping[str, Any]], published: Mapping[str, Any]) -> list[int]:
    """Places in a search space, nearest to the published values first; of equally near ones the earlier.

    Raises:
        ValueError: the published values are none of it.
    """
    usual = [at for at, values in enumerate(space) if all(published[name] == value for name, value in values.items())]
    if not usual:
        raise ValueError("a search space has the values in force among its candidates")
    return sorted(range(len(space)), key=lambda at: (at != usual[0], distance(space[at], published, at - usual[0]), at))


def candidates(
    method: str, space: Sequence[dict[str, Any]], published: Mapping[str, Any], n: int
) -> list[dict[str, Any]]:
    """The n candidates nearest to the published values, these first.

    Raises:
        ValueError: there are fewer.
    """
    if len(space) < n:
        raise ValueError(f"{method} has {len(space)} candidates, not {n}; every method gets the same number: --trials")
    return [space[at] for at in ordered(space, published)[:n]]


def best(trials: Sequence[Trial]) -> Trial | None:
    """The highest mean; of equals the first, which is the nearest to the published values. None: all failed."""
    return max((t for t in trials if t.mean is not None), key=lambda t: t.mean or 0.0, default=None)


def margins(chosen: Trial, trials: Sequence[Trial]) -> tuple[float | None, float | None]:
    """Points of accuracy over the published values, and over the best other candidate; None: there is none."""

    def over(others: Sequence[Trial]) -> float | None:
        found = [trial.mean for trial in others if trial.mean is not None]
        return (chosen.mean or 0.0) - max(found) if found else None

    return over([t for t in trials if t.published]), over([t for t in trials if t is not chosen])
