"""Rewards by verdict and prices on length: hand-made groups, numbers worked out in comments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from tests.episodes import make_info
from tgpo_ray.algorithms.grpo_config import GRPOTrainingConfig, OutcomeRewards
from tgpo_ray.algorithms.rewards import length_reward, outcome_rewards, overlong_penalty, shaped_rewards
from tgpo_ray.episode import EpisodeInfo

MAX_TOKENS = 100


def shaped(infos: Sequence[EpisodeInfo], **training: object) -> list[float]:
    return shaped_rewards(infos, GRPOTrainingConfig.model_validate(training), MAX_TOKENS).tolist()


GROUP = (
    make_info(reward=1.0, length=40),
    make_info(reward=1.0, length=100, stop_reason="length"),
    make_info(length=90),
    make_info(length=40, outcome="error"),
)


def test_without_options_the_rewards_are_the_environments():
    assert shaped(GROUP) == [1.0, 1.0, 0.0, 0.0]


def test_verdicts_have_the_worth_that_is_given_to_them():
    """SimpleRL-Zero's first recipe. A verifier that crashed is not a missing box."""
    worth = {"correct": 1.0, "wrong": -0.5, "unparsable": -1.0}
    outcomes = ["correct", "wrong", "unparsable", "timeout", "error"]
    assert outcome_rewards(outcomes, worth).tolist() == [1.0, -0.5, -1.0, -0.5, -0.5]
    assert shaped(GROUP, outcome_rewards=OutcomeRewards(wrong=-1.0, unparsable=-1.0)) == [1.0, 1.0, -1.0, -1.0]


def test_truncated_responses_have_reward_zero():
    assert shaped(GROUP, zero_truncated=True) == [1.0, 0.0, 0.0, 0.0]


def test_overlong_responses_lose_up_to_one_over_the_buffer():
    # the buffer is 80 ... 100: at 80 nothing, at 90 half of it, at 100 all
    np.testing.assert_allclose(overlong_penalty(np.array([10, 80, 90, 95, 100]), 100, 20), [0, 0, -0.5, -0.75, -1])
    assert shaped(GROUP, overlong_buffer=20) == [1.0, 0.0, -0.5, 0.0]
    with pytest.raises(ValueError, match=r"buffer must be in 1\.\.99, the tokens before the limit, got 100"):
        overlong_penalty(np.array([1]), 100, 100)


def test_short_responses_are_rewarded_within_their_group_where_they_are_right():
    # 0.5 - (length - 40) / 60: 0.5, -0.5, -1/3, 0.5; and the last one is wrong, so it gains nothing
    lengths, correct = np.array([40, 100, 90, 40]), np.array([True, True, False, False])
    np.testing.assert_allclose(length_reward(lengths, correct), [0.5, -0.5, -1 / 3, 0.0])
    assert length_reward(np.array([7, 7]), np.array([True, False])).tolist() == [0.0, 0.0]
    assert shaped(GROUP, length_weight=0.2) == pytest.approx([1.1, 0.9, -1 / 15, 0.0])


def test_prices_on_length_add_up_after_verdicts_and_truncation():
    # -1 for the limit and 0.2 * -0.5 for the length, on a reward that truncation has set to 0
    got = shaped(GROUP, zero_truncated=True, overlong_buffer=20, length_weight=0.2)
    assert got[1] == pytest.approx(-1.1)
