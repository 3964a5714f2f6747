"""tgpo/Arithmetic-v0."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.paths import ROOT
from tgpo_ray.envs.arithmetic import OPERATIONS, ArithmeticEnv
from tgpo_ray.envs.worked_solutions import STYLES, worked

SETTINGS: list[dict[str, Any]] = [
    {"operation": operation, "digits": digits} for operation in OPERATIONS for digits in ([3, 1], [1, 1], [2, 3])
]


def score(env: ArithmeticEnv, index: int, response: str) -> tuple[float, str, str | None]:
    env.reset(seed=0, options={"index": index})
    _, reward, _, _, info = env.step(response)
    return float(reward), info["outcome"], info["answer"]


@pytest.mark.parametrize("kwargs", SETTINGS)
def test_it_passes_gymnasiums_checks(kwargs):
    check_env(gymnasium.make("tgpo/Arithmetic-v0", **kwargs).unwrapped)


def test_a_worked_multiplication_goes_digit_by_digit_with_its_carries():
    # 7*6=42 writes 2 and carries 4; 4*6+4=28 writes 8 and carries 2; 3*6+2=20: 2082
    assert worked("long", "multiply", 347, 6, 2082) == "7*6=42,4*6+4=28,3*6+2=20,\\boxed{2082}"
    assert worked("long", "multiply", 302, 3, 906) == "2*3=6,0*3+0=0,3*3+0=9,\\boxed{906}"
    assert worked("short", "multiply", 347, 6, 2082) == "\\boxed{2082}"


def test_a_second_digit_brings_a_second_partial_product_and_their_sum():
    # 347*6=2082, then 347*2 tens = 6940, together 9022
    expected = "7*6=42,4*6+4=28,3*6+2=20;7*2=14,4*2+1=9,3*2+0=6;2082+6940=9022,\\boxed{9022}"
    assert worked("long", "multiply", 347, 26, 9022) == expected


def test_sums_carry_and_differences_borrow():
    assert worked("long", "add", 47, 6, 53) == "7+6=13,4+0+1=5,\\boxed{53}"
    # 2-7=-5 writes 5 and borrows 1; 4-1-1=2: 25
    assert worked("long", "subtract", 42, 17, 25) == "2-7=-5,4-1-1=2,\\boxed{25}"


def test_an_unknown_style_is_named():
    with pytest.raises(ValueError, match="style must be one of short, long, got 'medium'"):
        worked("medium", "add", 1, 2, 3)


@pytest.mark.parametrize("kwargs", SETTINGS)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_worked_step_is_true_and_every_worked_answer_scores_one(kwargs, split):
    env = ArithmeticEnv(split=split, **kwargs)
    for index in range(60):
        for style in STYLES:
            assert score(env, index, env.solution(index, style))[:2] == (1.0, "correct")
        for step in re.split("[,;]", env.solution(index).partition("\\boxed")[0]):
            left, _, right = step.partition("=")
            assert not step or eval(left) == int(right), step
        assert env.gold_response(index) == env.solution(index, "long")


@pytest.mark.parametrize(
    ("response", "outcome", "answer"),
    [
        ("\\boxed{%d}", "correct", "{0}"),
        ("\\boxed{1} no, \\boxed{%d}", "correct", "{0}"),
        ("\\boxed{%d} no, \\boxed{1}", "wrong", "1"),
        ("\\boxed{0%d}", "wrong", "0{0}"),
        ("\\boxed{ %d}", "wrong", " {0}"),
        ("\\boxed{%d1}", "wrong", "{0}1"),
        ("\\boxed{%d.0}", "wrong", "{0}.0"),
        ("\\boxed{-%d}", "wrong", "-{0}"),
        ("%d", "unparsable", None),
        ("\\boxed{%d", "unparsable", None),
        ("boxed{%d}", "unparsable", None),
    ],
)
def test_only_the_last_box_to_the_letter_scores(response, outcome, answer):
    env = ArithmeticEnv()
    right = env.answer(5)
    expected = None if answer is None else answer.format(right)
    assert score(env, 5, response % right) == (float(outcome == "correct"), outcome, expected)


def test_the_prompt_is_the_bare_task():
    env = ArithmeticEnv(digits=[3, 1])
    prompt, info = env.reset(seed=0, options={"index": 7})
    assert re.fullmatch(r"[1-9]\d\d\*[2-9]=", prompt)
    assert "messages" not in info and env.num_problems is None


def test_operands_have_their_digits_and_no_answer_is_negative():
    env = ArithmeticEnv(operation="subtract", digits=[1, 2])
    for index in range(200):
        a, b = env.operands(index)
        assert 10 <= a <= 99 and 2 <= b <= 9 and env.answer(index) > 0


def test_no_operand_pair_is_in_both_splits_whatever_the_seed():
    pairs = {
        split: {
            tuple(sorted(ArithmeticEnv(split=split, digits=[2, 2], seed=seed).operands(i)))
            for seed in (0, 1)
            for i in range(2000)
        }
        for split in ("train", "test")
    }
    assert not pairs["train"] & pairs["test"]
    assert len(pairs["test"]) > 400  # of 4095 unordered pairs one in eight is held out: 512
    assert len(pairs["train"]) > 2000


def test_an_index_is_the_same_problem_in_every_process_whatever_the_reset_seed():
    env = ArithmeticEnv(digits=[3, 2], seed=4)
    prompts = [env.reset(seed=seed, options={"index": i})[0] for seed in (0, 9) for i in range(5)]
    assert prompts[:5] == prompts[5:]
    assert len(set(prompts)) == 5
    assert prompts[:5] != [ArithmeticEnv(digits=[3, 2], seed=5).reset(options={"index": i})[0] for i in range(5)]
    script = (
        "from tgpo_ray.envs.arithmetic import ArithmeticEnv as A; e = A(digits=[3, 2], seed=4);"
        "print(*[e.reset(options={'index': i})[0] for i in range(5)])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.split() == prompts[:5]


def test_a_tiny_setting_still_has_held_out_problems():
    env = ArithmeticEnv(digits=[1, 1], split="test")
    assert len({env.operands(i) for i in range(200)}) > 1


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"operation": "multply"}, "operation must be one of .* got 'multply'; did you mean 'multiply'"),
        ({"split": "tst"}, "split must be one of train, test, got 'tst'; did you mean 'test'"),
        ({"digits": [3]}, r"digits must be two integers in \[1, 12\], got \[3\]"),
        ({"digits": [3, 0]}, r"digits must be two integers in \[1, 12\], got \[3, 0\]"),
    ],
)
def test_a_wrong_setting_is_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ArithmeticEnv(**kwargs)


def test_it_survives_pickling():
    env = ArithmeticEnv(digits=[2, 2], split="test", seed=3)
    assert pickle.loads(pickle.dumps(env)).operands(11) == env.operands(11)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=200))
def test_no_text_raises_or_scores(text):
    assert score(ArithmeticEnv(), 0, text)[0] == 0.0


def test_levels_are_walked_through_or_mixed_by_weight():
    walk = ArithmeticEnv(levels=[[1, 1], [2, 1], [3, 2]], problems_per_level=10)
    assert [walk.digits(index) for index in (0, 9, 10, 19, 20, 1000)] == [
        *[(1, 1)] * 2, *[(2, 1)] * 2, *[(3, 2)] * 2,
    ]  # fmt: skip
    mixed = ArithmeticEnv(levels=[[1, 1], [3, 2]], level_weights=[1, 3])
    hard = sum(mixed.digits(index) == (3, 2) for index in range(400))
    assert 260 < hard < 340  # 300 expected, deviation 9
    for env in (walk, mixed):
        for index in range(0, 40, 3):
            assert tuple(len(str(number)) for number in env.operands(index)) == env.digits(index)
            assert score(env, index, env.gold_response(index))[0] == 1.0
    check_env(gymnasium.make("tgpo/Arithmetic-v0", levels=[[1, 1], [2, 1]]).unwrapped)


def test_one_level_is_the_same_as_its_digits():
    one, same = ArithmeticEnv(digits=[2, 2]), ArithmeticEnv(levels=[[2, 2]])
    assert [one.operands(index) for index in range(20)] == [same.operands(index) for index in range(20)]


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"levels": []}, "at least one pair"),
        ({"levels": [[1, 1], [1]]}, r"two integers in \[1, 12\], got \[1\]"),
        ({"levels": [[1, 1]], "level_weights": [1, 2]}, "must be 1 numbers >= 0, one for each level"),
        ({"levels": [[1, 1]], "level_weights": [1], "problems_per_level": 5}, "give one of the two"),
        ({"problems_per_level": 0}, "problems_per_level must be >= 1"),
    ],
)
def test_a_wrong_curriculum_is_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ArithmeticEnv(**kwargs)
