from __future__ import annotations

import numpy as np
import pytest

from tgpo_ray.algorithms.advantages import group_standardized, leave_one_out, mean_centered


def test_group_standardized_uses_the_sample_deviation():
    # mean 0.25, std(ddof=1) 0.5: (0.75, -0.25 x 3) / 0.5
    expected = np.array([[0.75, -0.25, -0.25, -0.25]]) / (0.5 + 1e-6)
    np.testing.assert_allclose(group_standardized(np.array([[1.0, 0.0, 0.0, 0.0]])), expected, rtol=1e-12)


@pytest.mark.parametrize("reward", [0.0, 1.0, 0.1, 1 / 3, -2e7])
@pytest.mark.parametrize("estimator", [group_standardized, mean_centered, leave_one_out])
def test_equal_rewards_give_exactly_zero(reward, estimator):
    assert not estimator(np.full((2, 7), reward)).any()


def test_a_group_of_one_keeps_its_reward():
    np.testing.assert_allclose(group_standardized(np.array([[0.7]])), [[0.7 / (1 + 1e-6)]])


def test_groups_do_not_see_each_other():
    rewards = np.random.default_rng(0).random((3, 4))
    for estimator in (group_standardized, mean_centered, leave_one_out):
        together = estimator(rewards)
        np.testing.assert_array_equal(together[1], estimator(rewards[1]))
        np.testing.assert_array_equal(estimator(rewards[::-1]), together[::-1])


def test_order_inside_a_group_only_permutes():
    rewards, order = np.random.default_rng(1).random((2, 5)), np.array([3, 0, 4, 1, 2])
    for estimator in (group_standardized, mean_centered, leave_one_out):
        np.testing.assert_allclose(estimator(rewards[:, order]), estimator(rewards)[:, order], atol=1e-12)


def test_leave_one_out_compares_with_the_mean_of_the_others():
    # others of the first: (0 + 0.5) / 2 = 0.25; of the second: 0.75; of the third: 0.5
    np.testing.assert_allclose(leave_one_out(np.array([1.0, 0.0, 0.5])), [0.75, -0.75, 0.0], atol=1e-15)
    assert abs(leave_one_out(np.random.default_rng(2).random((4, 8))).sum(-1)).max() < 1e-12
    with pytest.raises(ValueError, match="group_size must be >= 2, got 1"):
        leave_one_out(np.zeros((3, 1)))


def test_mean_centered_does_not_divide():
    np.testing.assert_allclose(mean_centered(np.array([[1.0, 0.0, 0.5]])), [[0.5, -0.5, 0.0]])


def test_rewards_that_are_not_numbers_are_refused():
    with pytest.raises(ValueError, match="rewards must be finite, got nan"):
        group_standardized(np.array([[1.0, np.nan]]))
    with pytest.raises(ValueError, match=r"G >= 1, got shape \(2, 0\)"):
        mean_centered(np.zeros((2, 0)))
