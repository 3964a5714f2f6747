"""Whatever a model may write: nothing raises out of `step`, outcomes are typed, no deadline is exceeded."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.envs.fuzzed_text import SHORT, long, nested
from tgpo_ray.envs import OUTCOMES
from tgpo_ray.envs.adapters import GemEnv, VerifiersEnv
from tgpo_ray.envs.code_env import CodeEnv
from tgpo_ray.envs.math_env import MathEnv
from tgpo_ray.envs.reward_function import RewardFunctionEnv
from tgpo_ray.envs.sandbox import MECHANISMS, why_not

HERE = Path(__file__).parent
DEADLINE_S = 2.0
# Beyond the deadline: killing and starting a process, and megabytes through a pipe, on a machine that others use too.
GRACE_S = 20.0
FAST = settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEAVY = settings(FAST, max_examples=60)
MEGABYTE = 1_200_000
no_sandbox = pytest.mark.skipif(
    sys.platform != "linux" or all(map(why_not, MECHANISMS)), reason="no sandbox works on this machine"
)


pytestmark = pytest.mark.usefixtures("importable_reward_functions")


@pytest.fixture
def environments(write_jsonl) -> list[Any]:
    """Each of those that run what they do not know: a reward function, a rubric, a game; and math-verify."""
    path = write_jsonl({"problem": "1+1?", "answer": "2"})
    functions = HERE / "reward_functions.py"
    return [
        RewardFunctionEnv(path, f"{functions}:plain", deadline_s=DEADLINE_S),
        VerifiersEnv("reward_functions:verifiers_environment", deadline_s=DEADLINE_S),
        GemEnv("reward_functions:Countdown", deadline_s=DEADLINE_S),
        MathEnv(path, deadline_s=DEADLINE_S),
    ]


@pytest.fixture
def code(write_jsonl) -> CodeEnv:
    row = {"problem": "Add.", "tests": ["assert add(1, 2) == 3"], "entry_point": "add"}
    return CodeEnv(write_jsonl(row, name="code.jsonl"), deadline_s=DEADLINE_S)


def play(env: Any, text: str) -> dict[str, Any]:
    """The info of the last step of an episode in which every response is `text`."""
    env.reset(seed=0, options={"index": 0})
    over, reward, info = False, 0.0, {}
    while not over:
        start = time.monotonic()
        _, reward, terminated, truncated, info = env.step(text)
        assert time.monotonic() - start < DEADLINE_S + GRACE_S
        over = terminated or truncated
    assert info["outcome"] in OUTCOMES and isinstance(info["detail"], str)
    assert reward == 0.0 or info["outcome"] in ("correct", "wrong")
    return info


def in_block(text: str) -> str:
    return f"```python\n{text}\n```"


@FAST
@given(SHORT | nested(300))
@example("\ud800")
@example("\0" * 1000)
def test_short_texts_stop_no_environment(environments, text):
    for env in environments:
        assert play(env, text)["outcome"] != "error" or isinstance(env, MathEnv)


@no_sandbox
@FAST
@given(SHORT | SHORT.map(in_block) | nested(300).map(in_block))
@example(in_block("def add(a, b): return '\ud800'"))
@example(in_block("def add(a, b):\n" + "".join(" " * i + "if a:\n" for i in range(1, 120)) + " " * 120 + "return 3"))
def test_short_texts_are_judged_by_the_sandbox(code, text):
    assert play(code, text)["outcome"] in ("wrong", "unparsable", "correct")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@HEAVY
@given(long(MEGABYTE) | nested(200_000))
def test_megabytes_and_deep_nesting_stop_no_environment(environments, text):
    for env in environments:
        play(env, text)


@no_sandbox
@pytest.mark.slow
@pytest.mark.timeout(1800)
@HEAVY
@given((long(MEGABYTE) | nested(200_000)).flatmap(lambda text: st.sampled_from([text, in_block(text)])))
def test_megabytes_and_deep_nesting_are_judged_by_the_sandbox(code, text):
    assert play(code, text)["outcome"] in ("wrong", "unparsable")


def test_what_hangs_is_killed_at_the_deadline_and_what_raises_is_an_error(environments):
    for env in environments[1:3]:
        env.deadline_s = 0.5
        assert play(env, "hang")["outcome"] == "timeout"
        assert play(env, "break")["outcome"] == "error"
        assert play(env, "stop")["outcome"] in ("correct", "wrong")
