"""Statistics against numbers worked out by hand or printed in tables of quantiles."""

from __future__ import annotations

import math

import pytest

from kdbench.report import stats


def test_spread_divides_by_n_minus_one():
    found = stats.spread([70.0, 71.0, 72.0])
    assert (found.mean, found.std, found.n) == (71.0, 1.0, 3)
    assert found.half == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)  # t of 2 degrees, 97.5%


def test_one_run_has_no_spread():
    assert stats.spread([70.0]) == (70.0, None, 1, None)


def test_gain_of_one_pair_is_the_paired_t_interval():
    found = stats.gain([[1.0, 2.0, 3.0]])
    assert found.mean == 2.0
    assert found.high - found.mean == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)
    assert not found.sure
    assert stats.gain([[1.0, 1.1, 1.2]]).sure


def test_gain_over_pairs_takes_its_interval_from_within_pairs():
    found = stats.gain([[1.0, 2.0, 3.0], [], [4.0, 6.0]])
    assert found.mean == 3.5  # of the means 2 and 5, not of the five runs
    assert (found.pairs, found.runs) == (2, 5)
    # Squares 2 + 2 over 3 degrees; variance of the mean 4/3 (1/3 + 1/2) / 2^2; t of 3 degrees is 3.182446.
    assert found.high - found.mean == pytest.approx(3.182446 * math.sqrt(4 / 3 * (1 / 3 + 1 / 2)) / 2, rel=1e-6)


def test_gain_without_repetition_has_no_interval():
    found = stats.gain([[1.0], [3.0]])
    assert (found.mean, found.low, found.high) == (2.0, None, None)
    assert not found.sure
    assert stats.gain([[], []]) is None


def test_average_ranks_go_by_pair_means():
    blocks = {
        # Means 70, 71, 60: ranks 2, 1, 3, although seed 1 alone would put the first on top.
        ("a", 0): [68.0, 71.0, 60.0],
        ("a", 1): [72.0, 71.0, 60.0],
        # A tie: 1.5, 1.5, 3.
        ("b", 0): [60.0, 60.0, 50.0],
        ("b", 1): [62.0, 62.0, 50.0],
    }
    found = stats.average_ranks(blocks)
    assert [one.mean for one in found] == [1.75, 1.25, 3.0]
    assert (found[2].low, found[2].high) == (3.0, 3.0)
    assert found[0].low <= 1.75 <= found[0].high
    assert found[0].low < found[0].high
    assert stats.average_ranks(blocks) == found


def test_few_blocks_pretend_no_certainty():
    assert stats.average_ranks({("a", 0): [2.0, 1.0], ("b", 0): [2.0, 1.0]}) == [(1.0, None, None), (2.0, None, None)]


def test_ari_leaves_out_what_cannot_be_divided_by():
    # (75 - 72) / (72 - 70) = 150%; gains of 0.05 and -2 over the student are no denominators.
    found = stats.ari([75.0, 74.0, 71.0], [72.0, 70.05, 68.0], [70.0, 70.0, 70.0])
    assert found.value == pytest.approx(150.0)
    assert (found.used, found.excluded) == (1, 2)
    assert stats.ari([75.0], [69.0], [70.0]) == (None, 0, 1)


def test_critical_difference_is_demsars():
    # Demsar, JMLR 2006, table 5: q = 2.728 for five methods; over 30 data sets.
    assert stats.critical_difference(5, 30) == pytest.approx(2.728 * math.sqrt(5 * 6 / (6 * 30)), abs=1e-3)


def test_friedman_knows_when_it_says_nothing():
    assert stats.friedman([[1.0, 2.0, 3.0]]) is None
    assert stats.friedman([[1.0, 1.0, 1.0], [2.0, 2.0, 2.0]]) is None
    # Perfect agreement of 4 blocks on 3 methods: chi square 8 with 2 degrees, p = exp(-4).
    assert stats.friedman([[1.0, 2.0, 3.0]] * 4) == pytest.approx(math.exp(-4))


def test_one_broken_cell_does_not_take_the_colour_from_the_others():
    assert stats.colour_limit([-40.0, -42.0, 1.0, 2.0, 2.0, -2.0, 1.0]) == 6.0
    assert stats.colour_limit([3.0, 4.0, 5.0]) == pytest.approx(4.9)
    assert stats.colour_limit([0.01]) == 0.5
