"""The contract of text environments, shown on a small one of our own."""

from __future__ import annotations

import json
import pickle

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

from tgpo_ray.envs import Problem, Seconds, SingleTurnEnv, TextSpace, Verdict


class Shuffled(SingleTurnEnv):
    """Says the letters of a word in an order that the seed decides."""

    num_problems = 2

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        word = ("guidance", "teacher")[index]
        return Problem("".join(rng.permutation(list(word))), word, ({"role": "user", "content": word},))

    def verify(self, problem: Problem, response: str) -> Verdict:
        if response == "break":
            raise RuntimeError("no verdict today")
        return Verdict(float(response == problem.answer), "correct" if response == problem.answer else "wrong")


def test_any_string_is_in_the_space_the_empty_one_too():
    space = TextSpace()
    for text in ("", "347*6=", "\\boxed{½}", "\ud800", "\x00", "数学" * 100_000):
        assert text in space
    assert 3 not in space
    assert "abc" not in TextSpace(max_length=2)


def test_samples_are_short_and_follow_the_seed():
    first, second = TextSpace(seed=3), TextSpace(seed=3)
    samples = [first.sample() for _ in range(50)]
    assert samples == [second.sample() for _ in range(50)]
    assert max(map(len, samples)) <= 64
    assert all(sample in first for sample in samples)
    assert len(TextSpace(2).sample()) <= 2


def test_a_space_survives_pickling_and_equals_its_like():
    assert pickle.loads(pickle.dumps(TextSpace())) == TextSpace() != TextSpace(5)


def test_a_subclass_passes_gymnasiums_checks():
    gymnasium.register("test/Shuffled-v0", entry_point=lambda **kwargs: Shuffled(**kwargs))
    try:
        check_env(gymnasium.make("test/Shuffled-v0").unwrapped)
    finally:
        del gymnasium.registry["test/Shuffled-v0"]


def test_the_same_seed_and_index_give_the_same_prompt_and_another_seed_another():
    env = Shuffled()
    first = env.reset(seed=1, options={"index": 0})
    assert first == Shuffled().reset(seed=1, options={"index": 0})
    assert first[0] != env.reset(seed=2, options={"index": 0})[0]


def test_without_an_index_the_seed_chooses_one():
    env = Shuffled()
    chosen = [env.reset(seed=seed)[1]["problem_index"] for seed in range(20)]
    assert set(chosen) == {0, 1}
    assert chosen == [Shuffled().reset(seed=seed)[1]["problem_index"] for seed in range(20)]


def test_reset_hands_out_its_own_copy_of_the_messages():
    env = Shuffled()
    env.reset(seed=0, options={"index": 1})[1]["messages"].clear()
    assert env.reset(seed=0, options={"index": 1})[1]["messages"] == [{"role": "user", "content": "teacher"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"index": 2}, r"must be in \[0, 2\), got 2"),
        ({"index": -1}, r"must be in \[0, 2\), got -1"),
        ({"index": "1"}, "must be an integer, got '1'"),
        ({"index": True}, "must be an integer, got True"),
        ({"indx": 1}, "unknown key 'indx'; did you mean 'index'"),
        ({"temperature": 1}, "unknown key 'temperature': the only one is 'index'"),
    ],
)
def test_a_wrong_option_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        Shuffled().reset(seed=0, options=options)


def test_a_numpy_index_is_an_index():
    assert Shuffled().reset(options={"index": np.int64(1)})[1]["problem_index"] == 1


def test_a_step_ends_the_episode_and_says_all_about_it():
    env = Shuffled()
    env.reset(seed=0, options={"index": 1})
    observation, reward, terminated, truncated, info = env.step("teacher")
    assert (observation, reward, terminated, truncated) == ("", 1.0, True, False)
    assert info["outcome"] == "correct"
    assert info["reward_parts"] == {"accuracy": 1.0}
    assert isinstance(info["verify_s"], float) and info["verify_s"] >= 0


def test_a_second_step_asks_for_a_reset():
    env = Shuffled()
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step("too early")
    env.reset(seed=0)
    env.step("teacher")
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step("teacher")


def test_a_verifier_that_raises_is_an_error_and_not_a_wrong_answer():
    env = Shuffled()
    env.reset(seed=0)
    _, reward, _, _, info = env.step("break")
    assert (reward, info["outcome"], info["detail"]) == (0.0, "error", "RuntimeError: no verdict today")


class Plain(Shuffled):
    """Verdicts as plain numbers."""

    def verify(self, problem: Problem, response: str):
        return {"half": 0.5, "true": True, "nothing": None}[response]


@pytest.mark.parametrize(
    ("response", "reward", "outcome"), [("half", 0.5, "wrong"), ("true", 1.0, "correct"), ("nothing", 0.0, "error")]
)
def test_verify_may_return_a_plain_number_and_a_forgotten_return_is_an_error(response, reward, outcome):
    env = Plain()
    env.reset(seed=0)
    _, got, _, _, info = env.step(response)
    assert (got, info["outcome"]) == (reward, outcome)


def test_a_subclass_without_its_methods_says_which_is_missing():
    with pytest.raises(NotImplementedError, match=r"SingleTurnEnv must implement problem\(index, rng\)"):
        SingleTurnEnv().reset(seed=0)


def test_an_unknown_outcome_is_refused():
    with pytest.raises(ValueError, match="outcome must be one of correct, wrong"):
        Verdict(1.0, "right")


def test_measured_seconds_are_equal_to_each_other_and_floats_otherwise():
    short, long = Seconds(0.25), Seconds(4.0)
    assert short == long
    assert [short] == [long]
    assert short < long and short + long == 4.25 and short == 0.25 and short != 0.5
    assert json.dumps(short) == "0.25"
    assert float(pickle.loads(pickle.dumps(short))) == 0.25


def test_an_environment_survives_pickling_in_the_middle_of_an_episode():
    env = Shuffled()
    env.reset(seed=0, options={"index": 1})
    copy = pickle.loads(pickle.dumps(env))
    assert copy.step("teacher")[1] == env.step("teacher")[1] == 1.0
    assert copy.reset()[0] == env.reset()[0]
