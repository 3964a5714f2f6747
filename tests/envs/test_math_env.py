"""tgpo/Math-v0."""

from __future__ import annotations

import pickle
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.envs.single_step import step
from tgpo_ray.envs.math_env import MathEnv

DATA_SETS = ["aime24", "aime25", "amc", "math500", "olympiadbench", "gsm8k_train", "gsm8k_test"]


def gold_failures(path: Path, indices) -> list[Any]:
    env = MathEnv(str(path), prompt="think", deadline_s=60.0)
    results = ((index, *step(env, index, env.gold_response(index))) for index in indices(env.num_problems))
    return [(index, info) for index, reward, info in results if reward != 1.0 or info["outcome"] != "correct"]


@pytest.fixture
def sums(write_jsonl) -> str:
    return write_jsonl({"problem": "1+1?", "answer": 2}, {"problem": "half of 3?", "answer": "\\frac{3}{2}"})


@pytest.mark.parametrize("prompt", ["plain", "think", "chat"])
def test_it_passes_gymnasiums_checks(sums, prompt):
    check_env(gymnasium.make("tgpo/Math-v0", path=sums, prompt=prompt).unwrapped)


@pytest.mark.parametrize("name", DATA_SETS)
def test_gold_answers_of_a_sample_score_one(data_folder, name):
    sample = random.Random(0)
    assert gold_failures(data_folder / f"{name}.jsonl", lambda n: sample.sample(range(n), min(n, 40))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", DATA_SETS)
def test_gold_answers_of_every_row_score_one(data_folder, name):
    assert gold_failures(data_folder / f"{name}.jsonl", range) == []


def test_another_rows_answer_scores_nothing(data_folder):
    env = MathEnv(str(data_folder / "aime24.jsonl"))
    answers = [env.problem(i, env.np_random).answer for i in range(30)]
    for index in range(30):
        other = (index + 1) % 30
        if int(answers[other]) != int(answers[index]):
            assert step(env, index, env.gold_response(other))[1]["outcome"] == "wrong"


@pytest.mark.parametrize(
    ("gold", "response", "outcome"),
    [
        ("2", "\\boxed{2}", "correct"),
        ("2", "\\boxed{2.0}", "correct"),
        ("2", "first \\boxed{3}, then \\boxed{2}", "wrong"),  # boxes within 70 characters are one answer: {2, 3}
        ("2, 3", "first \\boxed{3}, then \\boxed{2}", "correct"),
        ("2", "first \\boxed{3}" + ", but that was not to be the last word" * 3 + ": \\boxed{2}", "correct"),
        ("2", "\\boxed{3}", "wrong"),
        ("2", "\\boxed{-2}", "wrong"),
        ("2", "\\boxed{22}", "wrong"),
        ("2", "\\boxed{x}", "wrong"),
        ("2", "I do not know", "unparsable"),
        ("2", "", "unparsable"),
        ("\\frac{3}{2}", "\\boxed{1.5}", "correct"),
        ("\\frac{3}{2}", "\\boxed{\\frac{2}{3}}", "wrong"),
        ("1000", "\\boxed{1,000}", "correct"),
        ("(1, 2)", "\\boxed{(1,2)}", "correct"),
        ("(1, 2)", "\\boxed{(2,1)}", "wrong"),
        ("(1, 2)", "\\boxed{[1,2]}", "wrong"),
        ("1, 2", "\\boxed{2, 1}", "correct"),
        ("1, 2", "\\boxed{1}", "wrong"),
        ("x^2+2x+1", "\\boxed{(x+1)^2}", "correct"),
        ("x^2+2x+1", "\\boxed{(x-1)^2}", "wrong"),
        ("\\text{Evelyn}", "\\boxed{\\text{Evelyn}}", "correct"),
        ("\\text{Evelyn}", "\\boxed{\\text{Carla}}", "wrong"),
        ("50\\%", "\\boxed{50}", "correct"),
        ("10\\text{ cm}", "\\boxed{10}", "correct"),
    ],
)
def test_equal_answers_score_and_near_misses_do_not(write_jsonl, gold, response, outcome):
    env = MathEnv(write_jsonl({"problem": "?", "answer": gold}))
    reward, info = step(env, 0, response)
    assert (info["outcome"], reward) == (outcome, float(outcome == "correct"))


@pytest.mark.parametrize(
    ("gold", "response", "correct"),
    [
        (r"1-\frac{1}{\mathrm{e}}", r"\boxed{1-e^{-1}}", True),  # upright constants
        (r"1-\frac{1}{\mathrm{e}}", r"\boxed{1+\frac{1}{\mathrm{e}}}", False),
        (r"\pi\mathrm{e}^2", r"\boxed{e^2\pi}", True),
        (r"3+2\mathrm{i}", r"\boxed{3-2i}", False),
        (r"I_{\max}=\frac{a}{2b}", r"\boxed{\frac{a}{b+b}}", True),  # a name for the value
        (r"I_{\max}=\frac{a}{2b}", r"\boxed{\frac{b}{2a}}", False),
        (r"x=1,y=2", r"\boxed{2}", False),
    ],
)
def test_upright_constants_and_named_values_are_read(write_jsonl, gold, response, correct):
    assert step(MathEnv(write_jsonl({"problem": "?", "answer": gold})), 0, response)[0] == float(correct)


def test_tolerance_rounding_and_set_relations_are_options(write_jsonl):
    rows = [
        {"problem": "?", "answer": r"\cos^{10}(\frac{\pi}{10})", "error": "1e-4"},
        {"problem": "?", "answer": r"7 \times 10^{35}, 0.002", "error": [1e34, 0.001]},
        {"problem": "?", "answer": r"\frac{8}{3}", "error": None},
        {"problem": "?", "answer": "[-2, 7]", "error": ""},
    ]
    path = write_jsonl(*rows)
    env = MathEnv(path, columns={"tolerance": "error"}, rounding=2, set_relations=True)
    near = [r"\boxed{0.6054}", r"\boxed{0.003, 7.1\cdot 10^{35}}", r"\boxed{2.6667}", r"$-2 \le x \le 7$"]
    far = [r"\boxed{0.62}", r"\boxed{0.0031, 7.1\cdot 10^{35}}", r"\boxed{2.7}", r"$-2 \le x \le 8$"]
    assert [step(env, index, response)[0] for index, response in enumerate(near)] == [1.0] * 4
    assert [step(env, index, response)[0] for index, response in enumerate(far)] == [0.0] * 4
    assert [step(MathEnv(path), index, response)[0] for index, response in enumerate(near)] == [0.0] * 4
    assert step(MathEnv(path, tolerance=0.01), 2, r"\boxed{2.67}")[0] == 1.0
    assert step(MathEnv(path, tolerance=0.01), 2, r"\boxed{x}")[0] == 0.0
    with pytest.raises(ValueError, match="row 0: a tolerance must be a number >= 0 or a list, got 'small'"):
        MathEnv(write_jsonl({"problem": "?", "answer": "1", "tolerance": "small"}, name="b.jsonl"))
    with pytest.raises(ValueError, match="tolerance and rounding must be >= 0, got -1"):
        MathEnv(path, tolerance=-1.0)


def test_the_info_says_what_was_read_and_how_long_it_took(sums):
    _, info = step(MathEnv(sums), 0, "so it is \\boxed{3}")
    assert info["answer"] == "3"
    assert info["reward_parts"] == {"accuracy": 0.0}
    assert 0 < info["verify_s"] < 5


def test_the_gate_reads_only_what_follows_the_closed_thought(sums):
    env = MathEnv(sums, prompt="think")
    cases = {
        "work \\boxed{3}</think> \\boxed{2}": (1.0, "correct", 1.0),
        "work \\boxed{2}</think> \\boxed{3}": (0.0, "wrong", 1.0),
        "work \\boxed{2}</think>": (0.0, "unparsable", 1.0),
        "work </think> \\boxed{3} </think> \\boxed{2}": (0.0, "wrong", 1.0),  # between the first and the second
        "\\boxed{2}": (0.0, "unparsable", 0.0),
    }
    for response, (reward, outcome, form) in cases.items():
        got, info = step(env, 0, response)
        assert (got, info["outcome"]) == (reward, outcome), response
        assert info["reward_parts"] == {"accuracy": reward, "format": form}, response


def test_the_gate_is_an_option_of_its_own(sums):
    assert step(MathEnv(sums, prompt="think", format_gate=False), 0, "\\boxed{2}")[0] == 1.0
    gated = MathEnv(sums, prompt="plain", format_gate=True)
    assert step(gated, 0, "</think> \\boxed{2}")[1]["outcome"] == "unparsable"  # nobody opened it
    assert step(gated, 0, "<think> hm </think> \\boxed{2}")[0] == 1.0
    for index in range(2):
        assert step(gated, index, gated.gold_response(index))[0] == 1.0


def test_the_prompt_reaches_the_observation_and_the_messages(sums):
    text, info = MathEnv(sums, prompt="think", system_prompt="Hm.").reset(seed=0, options={"index": 0})
    assert text == "Hm.\n\nUser: 1+1?\n\nAssistant: <think>\n" and "messages" not in info
    text, info = MathEnv(sums, prompt="chat", system_prompt="Hm.").reset(seed=0, options={"index": 0})
    assert [message["content"] for message in info["messages"]] == ["Hm.", text]


def test_columns_may_have_other_names_and_gsm8k_answers_their_solutions(write_jsonl):
    path = write_jsonl({"question": "ducks?", "answer": "16-3-4=9, 9*2=18\n#### 18"})
    env = MathEnv(path, columns={"problem": "question"})
    assert env.gold_response(0) == "The final answer is \\boxed{18}."
    assert step(env, 0, "\\boxed{18}")[0] == 1.0


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"columns": {"answer": "anser"}}, "has no column 'anser'; did you mean 'answer'"),
        ({"columns": {"solution": "answer"}}, "unknown key 'solution'"),
        ({"prompt": "thnk"}, "did you mean 'think'"),
        ({"deadline_s": 0}, "deadline_s must be > 0"),
        ({"verify_workers": 0}, "verify_workers >= 1"),
    ],
)
def test_a_wrong_setting_is_named(sums, kwargs, message):
    with pytest.raises(ValueError, match=message):
        MathEnv(sums, **kwargs)


def test_a_missing_file_is_named_through_gymnasium_too():
    with pytest.raises(FileNotFoundError, match=r"no data set at 'missing\.jsonl'"):
        gymnasium.make("tgpo/Math-v0", path="missing.jsonl")


def test_a_latex_bomb_is_a_timeout_and_the_next_response_is_judged(sums):
    env = MathEnv(sums, deadline_s=1.0)
    step(env, 0, "\\boxed{2}")
    reward, info = step(env, 0, "\\boxed{9^{9^{9^{9^{9}}}}}")
    assert (reward, info["outcome"]) == (0.0, "timeout")
    assert info["verify_s"] < 3
    assert step(MathEnv(sums), 0, "\\boxed{2}")[0] == 1.0


def test_it_is_picklable_and_takes_no_pool_along(sums):
    env = MathEnv(sums)
    assert step(env, 1, "\\boxed{1.5}")[0] == 1.0  # the pool is up
    copy = pickle.loads(pickle.dumps(env))
    assert step(copy, 1, "\\boxed{1.5}")[0] == 1.0


def test_threads_may_each_step_an_environment_of_their_own(sums):
    def one(number: int) -> float:
        return step(MathEnv(sums, verify_workers=2), 0, f"\\boxed{{{number}}}")[0]

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(one, range(40))) == [float(number == 2) for number in range(40)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=120) | st.text("\\{}$^_()[]frac123, boxed", max_size=60))
def test_no_text_raises_and_every_outcome_is_typed(sums, text):
    reward, info = step(MathEnv(sums), 1, text)
    assert info["outcome"] in {"correct", "wrong", "unparsable", "timeout"}
    assert reward == float(info["outcome"] == "correct")
