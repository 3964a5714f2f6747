"""tgpo/ReasoningGym-v0; most of it needs the extra [reasoning-gym]."""

from __future__ import annotations

import importlib.util
import json
import os
import pickle
import subprocess
import sys
from typing import Any

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.envs.single_step import step
from tests.paths import ROOT
from tgpo_ray.envs import reasoning_gym_env
from tgpo_ray.envs.reasoning_gym_env import BLOCK, ReasoningGymEnv, tagged_answer

needs_it = pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="extra [reasoning-gym]")
MIXTURE = {"chain_sum": {"weight": 3}, "leg_counting": None, "basic_arithmetic": {"config": {"max_terms": 3}}}


def prompts(env: ReasoningGymEnv, indices: range) -> list[str]:
    return [env.reset(seed=0, options={"index": index})[0] for index in indices]


def test_its_absence_is_named(monkeypatch):
    monkeypatch.setattr(reasoning_gym_env, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'tgpo-ray\[reasoning-gym\]'"):
        ReasoningGymEnv("chain_sum")


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("<answer> 3 </answer>", "3"),
        ("<answer>3</answer> <answer>4</answer>", "4"),
        ("<answer>3</answer> <answer>4", "3"),
        ("\\boxed{5}", "5"),
        ("\\boxed{5} <answer>3</answer>", "3"),
        ("3", None),
        ("<answer>" * 100_000, None),
    ],
)
def test_the_last_tagged_or_boxed_answer_is_read(text, answer):
    assert tagged_answer(text) == answer


@needs_it
@pytest.mark.parametrize("tasks", ["chain_sum", ["chain_sum", "spell_backward"], MIXTURE])
def test_it_passes_gymnasiums_checks(tasks):
    check_env(gymnasium.make("tgpo/ReasoningGym-v0", tasks=tasks).unwrapped)


@needs_it
@pytest.mark.parametrize("prompt", ["plain", "think", "chat"])
def test_gold_answers_score_one_and_others_less(prompt):
    env = ReasoningGymEnv(MIXTURE, prompt=prompt, deadline_s=30.0)
    for index in range(10):
        gold = env.gold_response(index)
        assert gold is not None and step(env, index, gold)[0] == 1.0
        assert step(env, index, gold.replace("<answer>", "<answer>1"))[0] < 1.0
        assert step(env, index, "?")[1]["outcome"] == "unparsable"


@needs_it
def test_tasks_are_mixed_by_weight():
    env = ReasoningGymEnv(MIXTURE)
    names = [env.problem(index, env.np_random).extra["task"] for index in range(500)]
    assert 250 < names.count("chain_sum") < 350  # 300 expected, deviation 11


@needs_it
def test_problems_depend_on_seed_and_index_and_blocks_differ():
    first = prompts(ReasoningGymEnv("chain_sum", seed=1), range(20))
    assert first == prompts(ReasoningGymEnv("chain_sum", seed=1), range(20))
    others = prompts(ReasoningGymEnv("chain_sum", seed=2), range(20))
    others += prompts(ReasoningGymEnv("chain_sum", seed=1), range(BLOCK, BLOCK + 20))
    assert not set(first) & set(others)


@needs_it
def test_a_level_is_the_curriculums_and_a_list_is_walked_through():
    easy, hard = ReasoningGymEnv({"chain_sum": {"level": 0}}), ReasoningGymEnv({"chain_sum": {"level": 8}})
    assert max(map(len, prompts(easy, range(20)))) < min(map(len, prompts(hard, range(20))))
    walk = ReasoningGymEnv({"chain_sum": {"level": [0, 8]}}, problems_per_level=20)
    assert prompts(walk, range(20)) == prompts(easy, range(20))
    assert prompts(walk, range(20, 60)) == prompts(hard, range(20, 60))


@needs_it
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"tasks": "chain_sun"}, "no task 'chain_sun'; did you mean 'chain_sum'"),
        ({"tasks": []}, "at least one task"),
        ({"tasks": {"chain_sum": {"wheight": 1}}}, "unknown setting 'wheight'"),
        ({"tasks": {"chain_sum": {"weight": 0}}}, "weight of task 'chain_sum' must be > 0"),
        ({"tasks": {"chain_sum": {"level": 99}}}, r"level of task 'chain_sum' must be in \[0, "),
        ({"tasks": {"chain_sum": {"config": {"terms": 1}}}}, "does not take this configuration"),
        ({"tasks": {"acre": {"level": 0}}}, "has no curriculum"),
        ({"tasks": "chain_sum", "size": 0}, "size must be >= 1"),
    ],
)
def test_a_wrong_setting_is_named(kwargs, message):
    with pytest.raises(ValueError, match=message):
        ReasoningGymEnv(**kwargs)


@needs_it
def test_it_survives_pickling_in_the_middle_of_an_episode():
    env = ReasoningGymEnv("chain_sum", deadline_s=30.0)
    env.reset(seed=0, options={"index": 3})
    copy = pickle.loads(pickle.dumps(env))
    assert copy.step(env.gold_response(3))[1] == 1.0


@needs_it
@settings(max_examples=30, deadline=None)
@given(st.text(max_size=80))
def test_no_text_raises_and_every_outcome_is_typed(text):
    env = ReasoningGymEnv(["simple_equations", "complex_arithmetic", "countdown"], deadline_s=5.0)
    for response in (text, f"<answer>{text}</answer>"):
        assert step(env, 0, response)[1]["outcome"] in {"correct", "wrong", "unparsable", "error", "timeout"}


ALL_TASKS = """
import json, hashlib
from reasoning_gym.factory import DATASETS
from tgpo_ray.envs.reasoning_gym_env import ReasoningGymEnv
found = {}
for name in sorted(set(DATASETS) - {"composite"}):
    env = ReasoningGymEnv(name, deadline_s=60.0)
    prompt, _ = env.reset(seed=0, options={"index": 7})
    gold = env.gold_response(7)
    reward = None if gold is None else env.step(gold)[1]
    found[name] = [hashlib.md5(prompt.encode()).hexdigest(), reward]
print()  # some tasks print dots
print(json.dumps(found))
"""


@needs_it
@pytest.mark.slow
def test_every_task_scores_its_gold_answer_one_and_says_the_same_in_every_process():
    def run(hash_seed: str) -> dict[str, Any]:
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        command = [sys.executable, "-c", ALL_TASKS]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        return json.loads(done.stdout.splitlines()[-1])

    first, second = run("1"), run("2")
    assert len(first) > 100
    assert [name for name, (_, reward) in first.items() if reward not in (1.0, None)] == []
    assert [name for name in first if first[name] != second[name]] == []


HASHED = """
from tgpo_ray.envs.reasoning_gym_env import ReasoningGymEnv
for name in ("polynomial_multiplication", "isomorphic_strings", "ransom_note"):
    env = ReasoningGymEnv(name, seed=3)
    for index in (1, 5, 1004):
        print(repr(env.reset(seed=0, options={"index": index})[0]), repr(env.gold_response(index)))
"""


@needs_it
def test_tasks_that_iterate_over_sets_of_strings_say_the_same_under_every_hash_seed():
    command = [sys.executable, "-c", HASHED]
    processes = [
        subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE)
        for seed in "12"
    ]
    first, second = (process.communicate()[0] for process in processes)
    assert first == second != b""
