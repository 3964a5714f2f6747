"""A conversation between an environment and the policy, as it is put down in an Episode."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest

from tgpo_ray.env_runners.rollout import Rollout, RunningGroup
from tgpo_ray.envs import TextEnv
from tgpo_ray.episode import ORIGIN_ENVIRONMENT, ORIGIN_POLICY, Episode, Task
from tgpo_ray.models.engine_spec import Completion

PROMPT_IDS = np.asarray([20, 21], np.int32)


class ThreeTurns(TextEnv):
    """Takes three responses, scores their lengths, and answers each with another text."""

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        self.turns = 0
        return "count", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turns += 1
        done = self.turns == 3
        return f"turn {self.turns}", float(len(action)), done, False, {"outcome": "correct"} if done else {}


class OneValue(gymnasium.Env[str, str]):
    """Ends at once with the reward and info it was made with."""

    def __init__(self, reward: float, info: dict[str, Any]) -> None:
        self.reward, self.info = reward, info

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", self.reward, True, False, self.info


def completion(*ids: int, stop_reason: str = "stop") -> Completion:
    array = np.asarray(ids, np.int32)
    return Completion(array, -array.astype(np.float32), stop_reason)


def group_of(rollout: Rollout, *, index: int = 5) -> RunningGroup:
    return RunningGroup(Task(0, index, seed=9), "prompt", PROMPT_IDS, [rollout])


def finish(rollout: Rollout, *, with_logprobs: bool = True) -> Episode:
    return group_of(rollout).finish("my/Env-v0", 3, with_logprobs=with_logprobs).episodes[0]


def three_turns() -> Rollout:
    rollout = Rollout(ThreeTurns())
    rollout.env.reset(seed=0, options={"index": 5})
    # the same text twice, spelled by other ids the second time: ids stay as they were sampled
    for ids, text in (((1, 2, 3), "ab"), ((4, 5), "ab"), ((6,), "c")):
        rollout.add_completion(completion(*ids))
        observation = rollout.step(text)
        if not rollout.done:
            rollout.add_environment_tokens(np.asarray([30, 31] if observation == "turn 1" else [32], np.int32))
    return rollout


def test_turns_follow_each_other_with_their_authors():
    episode = finish(three_turns())
    assert episode.prompt_ids.tolist() == [20, 21]
    assert episode.response_ids.tolist() == [1, 2, 3, 30, 31, 4, 5, 32, 6]
    policy, environment = ORIGIN_POLICY, ORIGIN_ENVIRONMENT
    assert episode.origin.tolist() == [*[policy] * 3, *[environment] * 2, *[policy] * 2, environment, policy]
    assert episode.num_policy_tokens == 6
    assert (episode.response_ids.dtype, episode.origin.dtype) == (np.int32, np.uint8)


def test_a_turn_ends_after_the_policys_last_token_and_has_its_reward():
    episode = finish(three_turns())
    assert episode.turn_ends.tolist() == [3, 7, 9]
    assert episode.turn_rewards.tolist() == [2, 2, 1]
    assert episode.reward == 5.0
    assert (episode.outcome, episode.stop_reason) == ("correct", "stop")


def test_log_probs_are_the_samplers_and_zero_on_the_environments_tokens():
    episode = finish(three_turns())
    assert episode.old_logprobs is not None
    assert episode.old_logprobs.tolist() == [-1, -2, -3, 0, 0, -4, -5, 0, -6]
    assert finish(three_turns(), with_logprobs=False).old_logprobs is None


def test_an_episode_names_its_problem_and_weights():
    episode = finish(three_turns())
    assert (episode.env_id, episode.problem_index, episode.seed, episode.weights_version) == ("my/Env-v0", 5, 9, 3)


def test_the_group_keeps_the_texts():
    group = group_of(three_turns()).finish("my/Env-v0", 0, with_logprobs=False)
    assert (group.prompt_text, group.response_texts) == ("prompt", ("ababc",))


def test_a_response_at_its_token_limit_ends_the_episode():
    rollout = Rollout(ThreeTurns())
    rollout.env.reset(seed=0, options={"index": 0})
    rollout.add_completion(completion(1, 2, stop_reason="length"))
    rollout.step("ab")
    assert rollout.done
    episode = finish(rollout)
    assert (episode.stop_reason, episode.reward, episode.outcome) == ("length", 2.0, "correct")


def ended(reward: float, **info: Any) -> Rollout:
    rollout = Rollout(OneValue(reward, info))
    rollout.add_completion(completion(1))
    rollout.step("the answer")
    return rollout


@pytest.mark.parametrize("reward", [float("nan"), float("inf")])
def test_a_reward_that_is_no_number_names_environment_problem_and_response(reward: float):
    with pytest.raises(ValueError, match=r"my/Env-v0, problem 5, seed 9: .* reward (nan|inf); .*'the answer'"):
        finish(ended(reward))


def test_an_unknown_outcome_is_named():
    with pytest.raises(ValueError, match=r"my/Env-v0, problem 5.*outcome.* must be one of correct, .*, got 'great'"):
        finish(ended(1.0, outcome="great"))


@pytest.mark.parametrize(("reward", "outcome"), [(0.5, "correct"), (0.0, "wrong")])
def test_other_peoples_environments_need_not_say_the_outcome(reward: float, outcome: str):
    assert finish(ended(reward)).outcome == outcome


def test_parts_of_the_reward_are_kept():
    assert finish(ended(0.5, reward_parts={"format": 0.5})).reward_parts == {"format": 0.5}
