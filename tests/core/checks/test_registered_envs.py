"""Every registered environment passes the whole of `tgpo-ray env check`; what is skipped there has its reason."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.core.chat_templates import APPENDING, chat_tokenizer
from tests.paths import ROOT
from tgpo_ray.checks.environments import CHECKS, Subject, run_checks
from tgpo_ray.checks.environments.deadlines import check_deadline
from tgpo_ray.checks.environments.tokens import check_masks
from tgpo_ray.env_runners.registry import listed_ids
from tgpo_ray.envs import REGISTERED
from tgpo_ray.envs.sandbox import MECHANISMS, why_not

STAND_INS = "tests.envs.reward_functions"
FUNCTIONS = ROOT / "tests" / "envs" / "reward_functions.py"
SUMS = [{"problem": "17*23+1?", "answer": "392"}, {"problem": "half of 3?", "answer": "3/2"}]
FORMULAS = [*SUMS, {"problem": "Twice x?", "answer": "2x"}, {"problem": "A point?", "answer": "(3, \\frac{\\pi}{2})"}]
CHOICES = [
    {"problem": "Which is even?", "choices": ["3", "4", "5"], "answer": "B"},
    {"problem": "Which is green?", "choices": ["grass", "snow", "coal", "milk"], "answer": "A"},
]
CODE = [
    {"problem": "Add.", "tests": ["assert add(1, 2) == 3"], "entry_point": "add",
     "solution": "def add(a, b):\n    return a + b\n"},
    {"problem": "Square.", "tests": [{"input": [3], "output": 9}, {"input": {"x": -2}, "output": 4}],
     "entry_point": "square", "solution": "def square(x):\n    return x * x"},
]  # fmt: skip

NO_GOLD = {"gold answers", "near misses", "values", "other answers"}
IN_PROCESS = {"deadline"}
NO_NUMBER = {"values"}  # that is in the answer of one turn
TURNS = {"other answers"}
CASES: list[tuple[str, dict[str, Any], set[str]]] = [
    ("tgpo/Arithmetic-v0", {"digits": [2, 1]}, IN_PROCESS),
    ("tgpo/Code-v0", {"path": CODE, "deadline_s": 1.0}, NO_NUMBER),
    ("tgpo/Gem-v0", {"environment": f"{STAND_INS}:Countdown"}, NO_GOLD),
    ("tgpo/GuessNumber-v0", {}, IN_PROCESS | TURNS | NO_NUMBER | {"duplicates"}),
    (
        "tgpo/GuessNumber-v0",
        {"prompt": "chat", "reward": "efficiency"},
        IN_PROCESS | TURNS | NO_NUMBER | {"duplicates"},
    ),
    ("tgpo/LookupChain-v0", {"num_problems": 32}, IN_PROCESS | NO_NUMBER),
    ("tgpo/Math-v0", {"path": FORMULAS}, set()),
    ("tgpo/Math-v0", {"path": FORMULAS, "prompt": "think"}, set()),
    ("tgpo/MathTool-v0", {"path": FORMULAS}, TURNS),
    ("tgpo/MathTool-v0", {"path": SUMS, "prompt": "chat", "turn_role": "tool"}, TURNS | NO_NUMBER),
    ("tgpo/MathTool-v0", {"path": SUMS, "prompt": "think"}, TURNS | NO_NUMBER),
    ("tgpo/MultipleChoice-v0", {"path": CHOICES, "prompt": "chat"}, IN_PROCESS | NO_NUMBER),
    ("tgpo/ReasoningGym-v0", {"tasks": ["chain_sum", "leg_counting"]}, set()),
    ("tgpo/RewardFunction-v0", {"path": SUMS, "reward": f"{FUNCTIONS}:plain"}, NO_GOLD),
    ("tgpo/Verifiers-v0", {"environment": f"{STAND_INS}:verifiers_environment"}, NO_GOLD),
]
FAST = {"tgpo/Arithmetic-v0", "tgpo/GuessNumber-v0", "tgpo/LookupChain-v0"}


pytestmark = pytest.mark.usefixtures("no_worker_outlives_its_module")


def subject(env_id: str, kwargs: dict[str, Any], folder: Path) -> Subject:
    path = folder / "rows.jsonl"
    if isinstance(kwargs.get("path"), list):
        path.write_text("".join(json.dumps(row) + "\n" for row in kwargs["path"]))
        kwargs = {**kwargs, "path": str(path)}
    return Subject(env_id, kwargs, tokenizer=chat_tokenizer(APPENDING), max_prompt_tokens=2000)


def test_every_registered_environment_is_checked_below() -> None:
    assert {env_id for env_id, _, _ in CASES} == set(REGISTERED)
    assert set(REGISTERED) <= set(listed_ids())


@pytest.mark.parametrize(
    ("env_id", "kwargs", "skipped"),
    [
        pytest.param(*case, marks=() if case[0] in FAST else pytest.mark.slow, id=f"{case[0]} {number}")
        for number, case in enumerate(CASES)
    ],
)
def test_a_registered_environment_passes_every_check(
    tmp_path: Path, env_id: str, kwargs: dict[str, Any], skipped: set[str]
) -> None:
    if env_id == "tgpo/ReasoningGym-v0":
        pytest.importorskip("reasoning_gym")
    if env_id == "tgpo/Code-v0" and (sys.platform != "linux" or all(map(why_not, MECHANISMS))):
        pytest.skip("no sandbox works on this machine")
    results = list(run_checks(subject(env_id, kwargs, tmp_path)))
    assert len(results) == len(CHECKS)
    assert [result for result in results if result.failed] == []
    reasons = {result.name: result.measured for result in results if result.status == "skipped"}
    assert set(reasons) == skipped
    assert all(len(reason.split()) > 5 for reason in reasons.values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("env_id", "name"),
    [("tgpo/Math-v0", name) for name in ("aime24", "aime25", "amc", "math500", "olympiadbench", "gsm8k_test")]
    + [("tgpo/MathTool-v0", "math500")]
    + [("tgpo/MultipleChoice-v0", name) for name in ("arc_challenge", "mmlu_pro_560")],
)
def test_a_sample_of_each_data_set_passes_every_check(data_folder: Path, env_id: str, name: str) -> None:
    kwargs = {"path": str(data_folder / f"{name}.jsonl")}
    results = list(run_checks(Subject(env_id, kwargs, limit=60, tokenizer=chat_tokenizer(APPENDING))))
    assert [result for result in results if result.failed] == []


@pytest.mark.parametrize(("prompt", "shown"), [("plain", "of the environment"), ("chat", "with its template")])
def test_masks_of_the_calculators_answers_are_looked_at(tmp_path: Path, prompt: str, shown: str) -> None:
    result = check_masks(subject("tgpo/MathTool-v0", {"path": SUMS, "prompt": prompt}, tmp_path))
    assert result.status == "ok" and shown in result.measured
    assert result.measured.startswith("2 turns at most") and ", 0 of the environment" not in result.measured


def test_code_that_never_ends_is_killed_at_its_own_deadline(tmp_path: Path) -> None:
    if sys.platform != "linux" or all(map(why_not, MECHANISMS)):
        pytest.skip("no sandbox works on this machine")
    result = check_deadline(subject("tgpo/Code-v0", {"path": CODE, "deadline_s": 0.5}, tmp_path))
    assert result.status == "ok"
    assert result.measured.startswith("a hung candidate was killed") and result.measured.endswith("(deadline 0.5 s)")
