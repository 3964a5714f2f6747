"""Intervals, the paired permutation test and the seeds that a difference would take, against hand counts and scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from tgpo_ray.studies.seed_statistics import band, holm, interval, paired, seeds_needed, sign_flip_p, t_cdf, t_quantile


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 8, 9, 30, 101])
def test_students_t_is_scipys(df: int) -> None:
    for t in (-3.0, -0.2, 0.0, 0.7, 2.5, 40.0):
        assert t_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), abs=1e-12)
    for probability in (0.5, 0.9, 0.975, 0.995):
        assert t_quantile(probability, df) == pytest.approx(stats.t.ppf(probability, df), rel=1e-8, abs=1e-9)


def test_an_interval_of_three_runs() -> None:
    found = interval([0.1, 0.2, 0.3])
    # sd 0.1, t(0.975, 2) = 4.302653: 4.302653 * 0.1 / sqrt(3) = 0.248414
    assert (found.count, found.mean) == (3, pytest.approx(0.2))
    assert (found.low, found.high) == (pytest.approx(0.2 - 0.248414, abs=1e-6), pytest.approx(0.448414, abs=1e-6))


def test_one_run_has_no_interval_and_none_has_no_mean() -> None:
    assert interval([0.4]).low is None
    with pytest.raises(ValueError, match="at least 1 value, got 0"):
        interval([])


def test_the_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(size=(2000, 4))
    found = [interval(values) for values in draws.tolist()]
    covered = [it.low is not None and it.high is not None and it.low <= 0 <= it.high for it in found]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_all_differences_of_one_sign_give_the_smallest_p() -> None:
    # of the 8 flips of three positive numbers only +++ and --- are as far from 0
    assert sign_flip_p([0.1, 0.2, 0.3]) == 2 / 8
    assert sign_flip_p([0.1] * 6) == 2 / 64


def test_the_permutation_test_counts_every_flip() -> None:
    values = [0.3, -0.1, 0.25, 0.05, 0.2]
    flips = [abs(float(np.dot(signs, values))) for signs in itertools.product([1, -1], repeat=5)]
    assert sign_flip_p(values) == np.mean([flip >= 0.7 - 1e-9 for flip in flips])
    found = stats.permutation_test((values,), np.sum, permutation_type="samples", n_resamples=2**5 + 1)
    assert sign_flip_p(values) == pytest.approx(found.pvalue)


def test_equal_differences_are_found_equal_in_any_order() -> None:
    values = [0.1, 0.2, 0.3, 0.1 + 0.2]
    assert sign_flip_p(values) == sign_flip_p(values[::-1]) == 2 / 16


def test_many_pairs_are_drawn_and_p_is_never_zero() -> None:
    assert 0 < sign_flip_p([1.0] * 40) <= 1e-3
    rng = np.random.default_rng(1)
    values = rng.normal(0.3, 1.0, 30)
    assert sign_flip_p(values.tolist()) == pytest.approx(stats.ttest_1samp(values, 0)[1], abs=0.02)


@pytest.mark.parametrize(("effect", "pairs"), [(0.5, 34), (1.0, 10), (0.8, 15)])  # of G*Power, two-sided paired t
def test_seeds_needed_is_the_textbooks(effect: float, pairs: int) -> None:
    assert seeds_needed(effect, 1.0) == pytest.approx(pairs, abs=1)


def test_fewer_than_six_pairs_are_never_enough_at_five_percent() -> None:
    assert seeds_needed(5.0, 0.01) == 6
    assert seeds_needed(0.1, 1.0, level=0.9, power=0.5) is not None
    assert 2 / 2**5 > 0.05 > 2 / 2**6


@pytest.mark.parametrize("effect", [1.4, 1.7])
def test_six_pairs_are_not_enough_where_one_of_them_may_fall_the_other_way(effect: float) -> None:
    """A flip of one sign of six takes p above 0.05, so six are enough only where all six are likely to agree."""
    drawn = np.random.default_rng(0).normal(effect, 1.0, (4000, 6))
    assert np.mean([sign_flip_p(differences) < 0.05 for differences in drawn]) < 0.8
    assert seeds_needed(effect, 1.0) == 7 and seeds_needed(1.9, 1.0) == 6


def test_a_sum_of_nothing_is_as_likely_as_any() -> None:
    assert sign_flip_p([0.0, 0.0, 0.5, -0.3, -0.2]) == 1.0
    assert sign_flip_p([0.0, 0.0, 0.5, 0.3 - 0.6, 0.6 - 0.8]) == 1.0


def test_no_number_of_seeds_finds_what_is_not_there() -> None:
    assert seeds_needed(0.0, 1.0) is None
    assert seeds_needed(1e-6, 1.0) is None


def test_pairs_of_a_variant_and_its_baseline() -> None:
    found = paired([0.5, 0.7, 0.6], [0.4, 0.5, 0.3])  # differences 0.1, 0.2, 0.3
    assert found.difference.mean == pytest.approx(0.2)
    assert (found.p_value, found.smallest_p) == (0.25, 0.25)
    # ((1.95996 + 0.84162) * 0.1 / 0.2)^2 + 1.92 = 3.88: fewer than the six that the test needs
    assert found.seeds_needed == 6
    with pytest.raises(ValueError, match="one length, got 2 and 1"):
        paired([1.0, 2.0], [1.0])


def test_one_pair_has_a_difference_and_no_test() -> None:
    found = paired([0.5], [0.25])
    assert (found.difference.mean, found.p_value, found.seeds_needed) == (0.25, None, None)


def test_holm_multiplies_the_smallest_most() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_a_band_counts_the_runs_that_an_iteration_has() -> None:
    ends = np.array([0.0, 5.0])
    curves = [(ends, np.array([0.1, 0.4])), (ends, np.array([0.3, 0.6])), (ends[:1], np.array([0.2]))]
    iterations, means, lows, highs = band(curves)
    assert iterations.tolist() == [0.0, 5.0] and means.tolist() == pytest.approx([0.2, 0.5])
    assert lows[1] == highs[1] == 0.5  # two runs have none
    assert math.isclose(highs[0] - means[0], t_quantile(0.975, 2) * 0.1 / math.sqrt(3))
