"""Thoughts: an unfinished one never scores, whoever opened it, and the rendered prompt says whether one is open."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from tgpo_ray.envs.code_env import CodeEnv
from tgpo_ray.envs.format_gate import FormatGate, thought_begun
from tgpo_ray.envs.guess_number import GuessNumberEnv
from tgpo_ray.envs.math_env import MathEnv
from tgpo_ray.envs.math_tool import MathToolEnv
from tgpo_ray.envs.multiple_choice import MultipleChoiceEnv
from tgpo_ray.envs.sandbox import MECHANISMS, why_not

OPENS, CLOSES, PLAIN = "<im_start>assistant\n<think>\n", "<im_start>assistant\n<think>\n\n</think>\n\n", "assistant\n"
RIGHT = "\\boxed{2}"

# what the rendered chat ends with, the response, whether it scores: without and with format_gate
CASES = [
    (OPENS, f"1 and 1.</think> {RIGHT}", True, True),
    (OPENS, f"Maybe {RIGHT}? Let me", False, False),
    (OPENS, RIGHT, False, False),
    (OPENS, f"<think>Again.</think> {RIGHT}", True, True),
    (OPENS, f"{RIGHT}</think> no idea", False, False),
    (OPENS, f"a</think> <think> maybe {RIGHT}", False, False),
    (CLOSES, RIGHT, True, True),
    (CLOSES, f"Short. {RIGHT} <think> Or", True, True),
    (CLOSES, f"<think> Maybe {RIGHT}", False, False),
    (PLAIN, RIGHT, True, False),
    (PLAIN, f"<think> 1 and 1. </think> {RIGHT}", True, True),
    (PLAIN, f"<think> Maybe {RIGHT}? Let me", False, False),
    (PLAIN, f"<think>{RIGHT}</think> no idea", False, False),
    (PLAIN, f"no thought </think> {RIGHT}", True, False),  # nobody opened it
    (None, f"1 and 1.</think> {RIGHT}", True, True),  # a chat that nobody has rendered: somebody opened it
    (None, f"<think> Maybe {RIGHT}? Let me", False, False),
    (None, RIGHT, True, False),
]


@pytest.fixture
def path(write_jsonl: Any) -> str:
    return write_jsonl({"problem": "1+1?", "answer": "2", "choices": ["1", "2"]})


@pytest.mark.parametrize(("end", "response", "free", "asked"), CASES)
@pytest.mark.parametrize("gate", [None, True])
def test_a_thought_counts_by_what_was_rendered(
    path: str, end: str | None, response: str, free: bool, asked: bool, gate: bool | None
) -> None:
    env = MathEnv(path, prompt="chat", format_gate=gate)
    env.reset(seed=0, options={"index": 0})
    if end is not None:
        env.prompt_rendered(end)
    _, reward, _, _, info = env.step(response)
    assert reward == float(asked if gate else free), info
    assert reward == 1.0 or info["outcome"] in ("unparsable", "wrong")


def test_the_rendering_of_one_problem_is_not_that_of_the_next(path: str) -> None:
    env = MathEnv(path, prompt="chat")
    env.reset(seed=0, options={"index": 0})
    env.prompt_rendered(OPENS)
    assert env.step(RIGHT)[1] == 0.0
    env.reset(seed=0, options={"index": 0})
    env.prompt_rendered(PLAIN)
    assert env.step(RIGHT)[1] == 1.0


@pytest.mark.parametrize("end", [OPENS, CLOSES, PLAIN])
@pytest.mark.parametrize("gate", [None, True])
def test_the_gold_response_scores_one_under_any_rendering(path: str, end: str, gate: bool | None) -> None:
    for env in (
        MathEnv(path, prompt="chat", format_gate=gate),
        MathToolEnv(path, prompt="chat", format_gate=gate, max_turns=1),
        MultipleChoiceEnv(path, prompt="chat", format_gate=gate),
    ):
        for _ in range(2):
            env.reset(seed=0, options={"index": 0})
            env.prompt_rendered(end)
        gold = env.gold_response(0)
        _, reward, _, _, info = env.step(gold if isinstance(gold, str) else gold[-1])
        assert reward == 1.0, info


def test_a_switched_off_gate_reads_the_whole_response(path: str) -> None:
    env = MathEnv(path, prompt="chat", format_gate=False)
    env.reset(seed=0, options={"index": 0})
    env.prompt_rendered(OPENS)
    _, reward, _, _, info = env.step(f"<think> Maybe {RIGHT}? Let me")
    assert (reward, info["reward_parts"]) == (1.0, {"accuracy": 1.0})


@pytest.mark.parametrize("prompt", ["{problem}\n<think>\n", "{problem} <think>", "{problem}<think>\n\n</think>\n\n"])
def test_text_prompts_are_read_too_whatever_they_are_called(path: str, prompt: str) -> None:
    env = MathEnv(path, prompt=prompt)
    scores = []
    for response in (f"so </think> {RIGHT}", RIGHT):
        env.reset(seed=0, options={"index": 0})
        scores.append(env.step(response)[1])
    assert scores == ([0.0, 1.0] if "</think>" in prompt else [1.0, 0.0])


def test_the_end_of_a_prompt_alone_says_what_it_begins() -> None:
    assert thought_begun("Write <think>...</think>, then the answer.") == ""
    assert thought_begun("Reply as <think>thoughts</think>") == ""
    assert thought_begun("<think>\n\n</think>\n\n") == "<think></think>"
    assert thought_begun("a <think> \n") == "<think>"


def test_a_guess_in_an_unfinished_thought_is_none() -> None:
    env = GuessNumberEnv(high=9, prompt="chat")
    env.reset(seed=0, options={"index": 0})
    number = env.gold_response(0)[-1]
    for response, done in ((f"<think> perhaps {number}", False), (f"<think> so </think> {number}", True)):
        observation, _, terminated, _, _ = env.step(response)
        assert terminated == done and ("no guess" in observation) == (not done)


@pytest.mark.parametrize("end", [OPENS, CLOSES, PLAIN])
def test_guesses_that_halve_score_one_under_any_rendering(end: str) -> None:
    env = GuessNumberEnv(high=9, prompt="chat")
    env.reset(seed=0, options={"index": 0})
    env.prompt_rendered(end)
    assert sum(env.step(guess)[1] for guess in env.gold_response(0)) == 1.0


def test_the_turns_of_a_conversation_each_have_their_thought_or_share_one(path: str) -> None:
    env = MathToolEnv(path, prompt="chat")
    call = "<tool>1+1</tool>"
    for turns, right in (
        ((f"<think>a</think>{call}", f"<think>b</think>{RIGHT}"), True),
        ((f"<think>{call}", f"so</think>{RIGHT}"), True),
        ((f"<think>{call}", RIGHT), False),  # never closed
        ((f"<think>a</think>{call}", f"<think>perhaps {RIGHT}"), False),
        ((f"<think>a</think>{call}", RIGHT), True),
    ):
        env.reset(seed=0, options={"index": 0})
        *_, (_, reward, terminated, _, info) = [env.step(turn) for turn in turns]
        assert terminated and reward == float(right), (turns, info)


@pytest.mark.skipif(sys.platform != "linux" or all(map(why_not, MECHANISMS)), reason="no sandbox works here")
def test_code_in_an_unfinished_thought_is_no_answer(write_jsonl: Any) -> None:
    env = CodeEnv(write_jsonl({"problem": "p", "tests": "assert f() == 1", "entry_point": "f"}), prompt="chat")
    block = "```python\ndef f(): return {}\n```\n"
    for response, reward in (
        (f"<think>\n{block.format(1)}", 0.0),
        (f"<think>\n{block.format(1)}</think>\nNo code.", 0.0),
        (f"<think>\n{block.format(2)}</think>\n{block.format(1)}", 1.0),
        (block.format(1), 1.0),
    ):
        env.reset(seed=0, options={"index": 0})
        assert env.step(response)[1] == reward, response


def test_parts_of_the_reward_name_the_format_only_where_a_thought_is_asked_for() -> None:
    assert FormatGate(None, "").parts(1.0) == FormatGate(None).parts(1.0) == {"accuracy": 1.0}
    assert FormatGate(None, "<think>").parts(1.0) == FormatGate(True, "").parts(1.0) == {"accuracy": 1.0, "format": 1.0}
    assert FormatGate(None, "<think>").refusal().parts == {"accuracy": 0.0, "format": 0.0}
