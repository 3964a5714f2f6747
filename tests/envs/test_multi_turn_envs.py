"""The multi-turn base, tgpo/GuessNumber-v0 and tgpo/MathTool-v0."""

from __future__ import annotations

import pickle
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tgpo_ray.envs import MultiTurnEnv, Problem, Verdict
from tgpo_ray.envs.guess_number import GuessNumberEnv, halving
from tgpo_ray.envs.math_tool import MathToolEnv


def play(env: MultiTurnEnv, index: int, *responses: str) -> tuple[list[str], float, dict[str, Any]]:
    """Observations after the prompt, the sum of rewards and the last info; the episode must end with the last."""
    env.reset(seed=0, options={"index": index})
    seen, total, info = [], 0.0, {}
    for number, response in enumerate(responses, start=1):
        observation, reward, terminated, truncated, info = env.step(response)
        assert (terminated, truncated, info["turn"]) == (number == len(responses), False, number)
        seen.append(observation)
        total += reward
    return seen, total, info


class Echo(MultiTurnEnv):
    num_problems = 1

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        return Problem("say stop", "stop", ({"role": "user", "content": "say stop"},))

    def respond(self, problem: Problem, response: str) -> str | Verdict:
        if response == "break":
            raise RuntimeError("no echo today")
        return Verdict(1.0, "correct") if response == problem.answer else f"\n{response}?\n"

    def give_up(self, problem: Problem, response: str) -> Verdict:
        return Verdict(0.0, "wrong", extracted=response)


def test_a_turn_returns_its_own_text_alone_and_the_last_one_the_verdict():
    seen, reward, info = play(Echo(3), 0, "one", "two", "stop")
    assert (seen, reward, info["outcome"]) == (["\none?\n", "\ntwo?\n", ""], 1.0, "correct")
    assert info["reward_parts"] == {"accuracy": 1.0} and info["verify_s"] >= 0


def test_turns_are_bounded_and_the_bound_starts_anew():
    env = Echo(2)
    for _ in range(2):
        assert play(env, 0, "one", "two")[2]["answer"] == "two"
    with pytest.raises(ResetNeeded, match="call reset"):
        env.step("three")


def test_an_exception_in_a_turn_is_an_error_and_ends_the_episode():
    _, reward, info = play(Echo(9), 0, "one", "break")
    assert (reward, info["outcome"], info["detail"]) == (0.0, "error", "RuntimeError: no echo today")


def test_messages_begin_a_chat_and_each_turn_is_one():
    env = Echo(3)
    assert env.reset(seed=0)[1]["messages"] == [{"role": "user", "content": "say stop"}]
    observation, *_, info = env.step("one")
    assert (observation, info["messages"]) == ("\none?\n", [{"role": "user", "content": "one?"}])
    assert "messages" not in env.step("stop")[4]


def test_turns_of_a_chat_may_be_text_within_the_policys_own():
    env = Echo(3)
    env.turn_role = None
    env.reset(seed=0)
    assert "messages" not in env.step("one")[4]


@pytest.mark.parametrize("role", ["user", "tool", "system", None])
def test_a_chat_goes_on_in_messages_and_plain_text_does_not(ducks, role):
    for prompt in ("plain", "think", "chat"):
        env = MathToolEnv(ducks, prompt=prompt, turn_role=role)
        env.reset(seed=0, options={"index": 0})
        observation, *_, info = env.step("<tool>17*23</tool>")
        said = [{"role": role, "content": "Result: 391"}] if prompt == "chat" and role else None
        assert (observation, info.get("messages")) == ("\nResult: 391\n", said)


def test_the_game_may_be_a_chat():
    env = GuessNumberEnv(high=3, prompt="chat")
    text, info = env.reset(seed=0, options={"index": 1})
    assert info["messages"] == [{"role": "user", "content": text.strip()}]
    observation, *_, info = env.step("\\boxed{2}")
    assert info["messages"] == [{"role": "user", "content": observation.strip()}]
    assert GuessNumberEnv(high=3).reset(seed=0, options={"index": 1})[0] == text


@pytest.mark.parametrize("turns", [0, True, 2.5])
def test_a_wrong_number_of_turns_is_named(turns):
    with pytest.raises(ValueError, match="max_turns must be an integer >= 1"):
        Echo(turns)


def test_halving_finds_every_number_within_the_default_number_of_guesses():
    env = GuessNumberEnv(high=100)
    assert max(len(halving(number, 100)) for number in range(1, 101)) == env.max_turns == 7
    for index in range(50):
        _, reward, info = play(env, index, *env.gold_response(index))
        assert (reward, info["outcome"]) == (1.0, "correct")


def test_feedback_points_to_the_number():
    env = GuessNumberEnv(high=10, max_turns=5)
    number = int(env.problem(0, env.np_random).answer)
    assert halving(number, 10)[-1] == number
    others = [guess for guess in range(1, 11) if guess != number][:3]
    seen, reward, _ = play(env, 0, *[f"\\boxed{{{guess}}}" for guess in others], "?", f"\\boxed{{{number}}}")
    for guess, text in zip(others, seen, strict=False):
        assert f"{'higher' if number > guess else 'lower'} than {guess}" in text
    assert "no guess" in seen[3] and "Guesses left: 1" in seen[3] and reward == 1.0


def test_efficiency_rewards_few_guesses():
    env = GuessNumberEnv(high=8, max_turns=20, reward="efficiency")
    gold = env.gold_response(3)
    assert play(env, 3, *gold)[1] == 1.0
    # as many wasted turns again halve the reward
    assert play(env, 3, *["?"] * len(gold), *gold)[1] == 0.5


def test_numbers_depend_on_seed_and_index_alone():
    first = [GuessNumberEnv(seed=1).gold_response(index) for index in range(30)]
    assert first == [GuessNumberEnv(seed=1).gold_response(index) for index in range(30)]
    assert first != [GuessNumberEnv(seed=2).gold_response(index) for index in range(30)]
    assert len({guesses[-1] for guesses in first}) > 15


def test_a_number_not_found_is_wrong_and_a_last_turn_without_guess_unparsable():
    env = GuessNumberEnv(high=1000, max_turns=2)
    wrong = next(guess for guess in "12" if env.problem(0, env.np_random).answer != guess)
    assert play(env, 0, "?", f"\\boxed{{{wrong}}}")[2]["outcome"] == "wrong"
    assert play(env, 0, f"\\boxed{{{wrong}}}", "?")[2]["outcome"] == "unparsable"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"high": 1}, r"high must be an integer in \[2, 1000000000\], got 1"),
        ({"reward": "speed"}, "reward must be one of success, efficiency"),
        ({"max_turns": 0}, "max_turns must be"),
        ({"prompt": "think"}, "prompt must be one of plain, chat, got 'think'"),
    ],
)
def test_a_wrong_setting_of_the_game_is_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        GuessNumberEnv(**kwargs)


@pytest.fixture
def ducks(write_jsonl) -> str:
    return write_jsonl({"problem": "17*23+1?", "answer": "392"}, {"problem": "half of 3?", "answer": "3/2"})


def test_both_pass_gymnasiums_checks(ducks):
    check_env(gymnasium.make("tgpo/GuessNumber-v0").unwrapped)
    check_env(gymnasium.make("tgpo/GuessNumber-v0", prompt="chat").unwrapped)
    for prompt in ("plain", "think", "chat"):
        check_env(gymnasium.make("tgpo/MathTool-v0", path=ducks, prompt=prompt).unwrapped)


def test_a_call_is_answered_and_the_box_is_scored(ducks):
    env = MathToolEnv(ducks)
    seen, reward, info = play(env, 0, "First <tool>17*23</tool>", "<tool>391+1</tool>", "so \\boxed{392}.")
    assert (seen, reward, info["answer"]) == (["\nResult: 391\n", "\nResult: 392\n", ""], 1.0, "392")
    assert play(env, 0, "<tool>1/0</tool> <tool>3/4</tool>", "\\boxed{3}")[0][0] == (
        "\nError: division by zero\nResult: 3/4\n"
    )
    assert play(env, 1, *env.gold_response(1))[1] == 1.0
    assert "<tool>" in env.reset(seed=0)[0]


def test_a_box_after_the_last_call_is_the_answer_and_one_before_it_is_not(ducks):
    env = MathToolEnv(ducks)
    assert play(env, 0, "<tool>17*23+1</tool> is \\boxed{392}")[1] == 1.0
    assert play(env, 0, "\\boxed{7}? <tool>17*23+1</tool>", "\\boxed{392}")[1] == 1.0
    assert play(env, 0, "I give up")[2]["outcome"] == "unparsable"


def test_right_responses_call_the_calculator_where_the_answer_is_arithmetic(write_jsonl):
    path = write_jsonl({"problem": "?", "answer": "3/4+2"}, {"problem": "?", "answer": "2x"})
    env = MathToolEnv(path)
    assert env.gold_response(0) == ("<tool>3/4+2</tool>", "The final answer is \\boxed{3/4+2}.")
    assert play(env, 0, *env.gold_response(0))[0] == ["\nResult: 11/4\n", ""]
    assert len(env.gold_response(1)) == len(MathToolEnv(path, max_turns=1).gold_response(0)) == 1


def test_a_role_that_no_chat_has_is_named(ducks):
    with pytest.raises(ValueError, match="turn_role must be one of user, tool, system or None, got 'assistant'"):
        MathToolEnv(ducks, turn_role="assistant")


def test_calls_without_end_are_cut_off(ducks):
    _, reward, info = play(MathToolEnv(ducks, max_turns=3), 0, *["<tool>1</tool>"] * 3)
    assert (reward, info["outcome"], info["detail"]) == (0.0, "unparsable", "no answer in 3 responses")


def test_the_gate_reads_the_turns_together(ducks):
    env = MathToolEnv(ducks, prompt="think")
    assert play(env, 0, "<tool>17*23</tool>", "hm</think> \\boxed{392}")[1] == 1.0
    assert play(env, 0, "</think> <tool>17*23</tool>", "\\boxed{392}")[1] == 1.0
    assert play(env, 0, "<tool>17*23</tool>", "\\boxed{392}")[2]["reward_parts"]["format"] == 0.0
    assert play(env, 0, *env.gold_response(0))[1] == 1.0  # nothing is left of the episode before


def test_an_environment_survives_pickling_between_two_turns(ducks):
    for env, first in ((MathToolEnv(ducks), "<tool>1</tool>"), (GuessNumberEnv(), "?")):
        env.reset(seed=0, options={"index": 0})
        env.step(first)
        copy = pickle.loads(pickle.dumps(env))
        assert copy.step(env.gold_response(0)[-1])[1] == 1.0


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(max_size=60) | st.text("<tool>/\\boxed{}0123*+-", max_size=60), min_size=1, max_size=4))
def test_no_conversation_raises_and_every_outcome_is_typed(ducks, responses):
    for env in (GuessNumberEnv(max_turns=4), MathToolEnv(ducks, max_turns=4)):
        env.reset(seed=0, options={"index": 0})
        for response in responses:
            observation, _, terminated, _, info = env.step(response)
            assert isinstance(observation, str) and len(observation) < 20_000
            if terminated:
                assert info["outcome"] in {"correct", "wrong", "unparsable", "timeout"}
                break


@pytest.mark.parametrize("part", ["<tool>", "<tool>1</tool>", "\\boxed{", "9", "</tool>", "<tool>" + "9" * 1999])
def test_a_megabyte_is_no_trouble(ducks, part):
    response = part * (1_000_000 // len(part))
    for env in (GuessNumberEnv(max_turns=1), MathToolEnv(ducks, max_turns=1, deadline_s=1.0)):
        assert play(env, 0, response)[2]["verify_s"] < 3.0
