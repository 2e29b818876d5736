"""Statistics against numbers worked out by hand or printed in tables of quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
from narrow import there
from scipy.stats import ttest_1samp

from kdbench.report import resample, stats


def test_spread_divides_by_n_minus_one() -> None:
    found = stats.spread([70.0, 71.0, 72.0])
    assert (found.mean, found.std, found.n) == (71.0, 1.0, 3)
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t of 2 degrees, 97.5%


def test_one_run_has_no_spread() -> None:
    assert stats.spread([70.0]) == (70.0, None, 1, None)


def by_seed(*groups: Sequence[float]) -> list[dict[int, float]]:
    return [dict(enumerate(group)) for group in groups]


def half(found: stats.Gain) -> float:
    """Half of the interval."""
    return there(found.high) - found.mean


def test_gain_of_one_pair_is_the_paired_t_interval() -> None:
    found = there(stats.gain(by_seed([1.0, 2.0, 3.0])))
    assert found.mean == 2.0
    assert half(found) == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    theirs = ttest_1samp([1.0, 2.0, 3.0], 0)
    assert found.p == pytest.approx(theirs.pvalue)
    assert tuple(theirs.confidence_interval(0.95)) == pytest.approx((found.low, found.high))


def test_gain_over_pairs_takes_its_interval_from_within_pairs() -> None:
    found = there(stats.gain(by_seed([1.0, 2.0, 3.0], [], [4.0, 6.0])))
    assert found.mean == 3.5  # of the means 2 and 5, not of the five runs
    assert (found.pairs, found.runs, found.blocks) == (2, 5, 5)
    # Squares 2 + 2 over 3 degrees; variance of the mean 4/3 (1/3 + 1/2) / 2^2; t of 3 degrees is 3.182446.
    assert half(found) == pytest.approx(3.182446 * math.sqrt(4 / 3 * (1 / 3 + 1 / 2)) / 2, rel=1e-6)


def test_gain_counts_a_student_once() -> None:
    """Two pairs of one student with the same differences are no more certain than one pair."""
    once = there(stats.gain(by_seed([1.0, 2.0, 4.0])))
    twice = there(stats.gain(by_seed([1.0, 2.0, 4.0], [1.0, 2.0, 4.0]), ["resnet8", "resnet8"]))
    assert twice[:4] == pytest.approx(once[:4])
    assert (twice.pairs, twice.runs, twice.blocks) == (2, 6, 3)
    apart = there(stats.gain(by_seed([1.0, 2.0, 4.0], [1.0, 2.0, 4.0]), ["resnet8", "vgg8"]))
    assert half(apart) < half(once)
    # Differences that cancel within a seed leave no doubt about their mean: squares of (0.5, 0, -0.5) around 2.
    crossed = there(stats.gain(by_seed([1.0, 2.0, 3.0], [4.0, 2.0, 0.0]), ["resnet8", "resnet8"]))
    assert crossed.mean == 2.0
    assert half(crossed) == pytest.approx(4.302653 * math.sqrt(0.25 / 3), rel=1e-6)


def test_gain_without_repetition_has_no_interval() -> None:
    found = there(stats.gain(by_seed([1.0], [3.0])))
    assert (found.mean, found.low, found.high, found.p) == (2.0, None, None, None)
    assert stats.gain([{}, {}]) is None


def test_equal_differences_are_no_certainty() -> None:
    """Accuracies on a small test set come in steps; three equal ones say nothing about the spread."""
    assert there(stats.gain(by_seed([0.1 + 0.2, 0.3, 0.3])))[1:4] == (None, None, None)


def test_holm_is_holms() -> None:
    # Holm 1979: 0.01 x 4, 0.02 x 3, 0.03 x 2, 0.04 x 1, never falling.
    assert stats.holm([0.01, None, 0.04, 0.03, 0.02]) == pytest.approx([0.04, None, 0.06, 0.06, 0.06], nan_ok=True)
    assert stats.holm([0.9, 0.8]) == [1.0, 1.0]
    assert stats.holm([]) == []


def test_average_ranks_go_by_pair_means() -> None:
    blocks = {
        # Means 70, 71, 60: ranks 2, 1, 3, although seed 1 alone would put the first on top.
        ("a", 0): [68.0, 71.0, 60.0],
        ("a", 1): [72.0, 71.0, 60.0],
        # A tie: 1.5, 1.5, 3.
        ("b", 0): [60.0, 60.0, 50.0],
        ("b", 1): [62.0, 62.0, 50.0],
    }
    found = resample.average_ranks(blocks)
    assert [one.mean for one in found] == [1.75, 1.25, 3.0]
    assert (found[2].low, found[2].high) == (3.0, 3.0)
    low, high = there(found[0].low), there(found[0].high)
    assert low <= 1.75 <= high
    assert low < high
    assert resample.average_ranks(blocks) == found
    # A draw of pair a is (0, 0), (0, 1), (1, 0) or (1, 1); the first method has the lower rank in the last alone.
    assert found[0].best == pytest.approx(0.25, abs=0.03)
    assert sum(there(one.best) for one in found) == pytest.approx(1)


def test_few_blocks_pretend_no_certainty() -> None:
    found = resample.average_ranks({("a", 0): [2.0, 1.0], ("b", 0): [2.0, 1.0]})
    assert found == [(1.0, None, None, None), (2.0, None, None, None)]
    assert resample.average_ranks({}) == []


def test_no_draw_loses_a_student_and_shared_seeds_are_drawn_together() -> None:
    """Method 0 wins on a, method 1 on b, whatever the seeds: a draw without a pair would move the rank."""
    blocks = {(pair, seed): [70.0 + (pair == "a"), 70.0 + (pair == "b")] for pair in "ab" for seed in range(2)}
    found = resample.average_ranks(blocks)
    assert [(one.mean, one.low, one.high) for one in found] == [(1.5, 1.5, 1.5)] * 2
    # One student in both columns: its seeds decide both, so that ranks swing together; two students average out.
    swings = {(pair, seed): [top1, 71.0] for pair in "ab" for seed, top1 in enumerate((70.0, 71.5, 72.0, 70.5))}
    together = resample.average_ranks(swings, {"a": "s", "b": "s"})[0]
    apart = resample.average_ranks(swings)[0]
    assert {together.low, together.high} == {1.0, 2.0}
    assert apart.mean == together.mean
    shares = [
        sum([there(one.best) for one in resample.average_ranks(swings, students)])
        for students in (dict[str, str](), {"a": "s", "b": "s"})
    ]
    assert shares == pytest.approx([1, 1])


def test_a_pair_that_lacks_the_drawn_seeds_keeps_its_own() -> None:
    blocks = {("a", seed): [71.0, 70.0] for seed in range(4)} | {("b", 3): [70.0, 71.0]}
    found = resample.average_ranks(blocks, {"a": "s", "b": "s"})
    assert [(one.mean, one.low, one.high) for one in found] == [(1.5, 1.5, 1.5)] * 2


def test_ari_leaves_out_what_cannot_be_divided_by() -> None:
    # (75 - 72) / (72 - 70) = 150%; gains of 0.05 and -2 over the student are no denominators.
    found = stats.ari([75.0, 74.0, 71.0], [72.0, 70.05, 68.0], [70.0, 70.0, 70.0])
    assert found.value == pytest.approx(150.0)
    assert (found.used, found.excluded) == (1, 2)
    assert stats.ari([75.0], [69.0], [70.0]) == (None, 0, 1)


def test_critical_difference_is_demsars() -> None:
    # Demsar, JMLR 2006, table 5: q = 2.728 for five methods; over 30 data sets.
    assert stats.critical_difference(5, 30) == pytest.approx(2.728 * math.sqrt(5 * 6 / (6 * 30)), abs=1e-3)


def test_friedman_knows_when_it_says_nothing() -> None:
    assert stats.friedman([[1.0, 2.0, 3.0]]) is None
    assert stats.friedman([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]) is None
    # Perfect agreement of 4 blocks on 3 methods: chi square 8 with 2 degrees, p = exp(-4).
    assert stats.friedman([[1.0, 2.0, 3.0]] * 4) == pytest.approx(math.exp(-4))


def test_one_broken_cell_does_not_take_the_colour_from_the_others() -> None:
    assert stats.colour_limit([-40.0, -42.0, 1.0, 2.0, 2.0, -2.0, 1.0]) == 6.0
    assert stats.colour_limit([3.0, 4.0, 5.0]) == pytest.approx(4.9)
    assert stats.colour_limit([0.01]) == 0.5
