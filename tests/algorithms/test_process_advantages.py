"""PRIME's advantages by hand, and the identities between the paper's form and the code's."""

from __future__ import annotations

import numpy as np
import pytest

from tgpo_ray.algorithms.advantages import leave_one_out
from tgpo_ray.algorithms.process_advantages import (
    normalized_by_peak,
    prime_advantages,
    process_leave_one_out,
    returns_to_go,
    whitened,
)


def random_batch(seed: int = 0) -> list[list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    return [[rng.normal(size=rng.integers(1, 6)) for _ in range(4)] for _ in range(3)]


def test_returns_sum_what_is_to_come():
    assert returns_to_go(np.array([1.0, 2.0, 4.0])).tolist() == [7.0, 6.0, 4.0]


def test_the_largest_return_of_the_batch_becomes_one():
    peak = max(np.abs(returns_to_go(r)).max() for group in normalized_by_peak(random_batch()) for r in group)
    assert abs(peak - 1.0) < 1e-5


def test_the_process_form_differs_from_the_authors_code_by_its_own_deviation():
    (group, *_) = random_batch()
    size = len(group)
    means = np.asarray([r.mean() for r in group])
    for mine, r, mean in zip(process_leave_one_out(group), group, means, strict=True):
        code = size / (size - 1) * r - means.sum() / (size - 1)
        np.testing.assert_allclose(code - mine, (r - mean) / (size - 1))


def test_outcomes_left_out_one_by_one_sum_to_nothing():
    assert abs(leave_one_out(np.array([1.0, 0.0, 0.0, 1.0])).sum()) < 1e-12


def test_process_rewards_of_equal_means_keep_their_shape_alone():
    same = process_leave_one_out([np.array([1.0, -1.0]), np.array([0.0, 0.0])])
    assert [a.tolist() for a in same] == [[1.0, -1.0], [0.0, 0.0]]


def test_advantages_have_mean_zero_and_deviation_one_over_all_tokens():
    batch = random_batch()
    advantages = np.concatenate([a for group in prime_advantages(batch, [np.arange(4.0)] * 3) for a in group])
    assert abs(advantages.mean()) < 1e-9 and abs(advantages.std(ddof=1) - 1.0) < 1e-6


def test_without_process_rewards_the_outcome_stands_on_every_token():
    batch = [[np.zeros(2), np.zeros(3)]]
    good, bad = prime_advantages(batch, [np.array([1.0, 0.0])])[0]
    # leave-one-out: +1 on two tokens, -1 on three; mean -.2, variance 1.2: (1.2, -.8) / sqrt(1.2)
    np.testing.assert_allclose(good, 1.2 / np.sqrt(1.2), rtol=1e-6)
    np.testing.assert_allclose(bad, -0.8 / np.sqrt(1.2), rtol=1e-6)


def test_the_scale_of_the_process_rewards_does_not_matter():
    batch, outcomes = random_batch(), [np.array([0.0, 1.0, 1.0, 0.0])] * 3
    scaled = [[20.0 * r for r in group] for group in batch]
    for a, b in zip(prime_advantages(batch, outcomes), prime_advantages(scaled, outcomes), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5)


def test_a_group_of_one_is_refused():
    with pytest.raises(ValueError, match="group_size must be >= 2, got 1"):
        process_leave_one_out([np.zeros(2)])


def test_one_token_in_all_is_whitened_without_a_division_by_zero():
    assert np.isfinite(whitened([[np.ones(1)]])[0][0]).all()
