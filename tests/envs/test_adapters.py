"""Reward functions, verifiers, gem and TRL."""

from __future__ import annotations

import pickle
from pathlib import Path

import gymnasium
import pytest
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.envs.single_step import step
from tgpo_ray.envs import as_trl_reward, trl_rows
from tgpo_ray.envs.adapters import GemEnv, VerifiersEnv
from tgpo_ray.envs.reward_function import RewardFunctionEnv

FUNCTIONS = str(Path(__file__).with_name("reward_functions.py"))


pytestmark = pytest.mark.usefixtures("importable_reward_functions")


@pytest.fixture
def sums(write_jsonl) -> str:
    chat = [{"role": "system", "content": "Add."}, {"role": "user", "content": "2+2?"}]
    return write_jsonl(
        {"problem": "1+1?", "answer": "2", "data_source": "sums", "level": 3},
        {"problem": chat, "answer": "4", "data_source": "products", "level": 4},
    )


@pytest.mark.parametrize(
    ("name", "scores"), [("plain", [1.0, 1.0]), ("compute_score", [1.0, 0.0]), ("trl", [1.0, 1.0])]
)
def test_reward_functions_of_three_styles_score(sums, name, scores):
    env = RewardFunctionEnv(sums, f"{FUNCTIONS}:{name}")
    assert [step(env, index, answer)[0] for index, answer in enumerate("24")] == scores
    assert step(env, 0, "3")[0] == 0.0
    assert "messages" not in env.reset(options={"index": 0})[1]
    assert env.reset(options={"index": 1})[1]["messages"][0] == {"role": "system", "content": "Add."}


def test_a_trl_function_gets_the_columns_that_it_asks_for(sums):
    env = RewardFunctionEnv(sums, f"{FUNCTIONS}:trl_narrow")
    assert [step(env, index, "")[0] for index in range(2)] == [1.0, 0.0]


def test_parts_of_a_point_are_rewards_and_failures_outcomes(sums):
    reward, info = step(RewardFunctionEnv(sums, "reward_functions:plain"), 0, "half")
    assert (reward, info["outcome"]) == (0.5, "wrong")
    env = RewardFunctionEnv(sums, f"{FUNCTIONS}:forever", deadline_s=0.5)
    reward, info = step(env, 0, "")
    assert (reward, info["outcome"]) == (0.0, "timeout") and info["verify_s"] < 2.0


@pytest.mark.parametrize(
    ("reward", "kwargs", "message"),
    [
        (f"{FUNCTIONS}:misfit", {}, r"takes .*must look like reward\(prompt, response, answer\)"),
        ("reward", {}, "must look like 'module:function'"),
        (f"{FUNCTIONS}:plain", {"style": "rllib"}, "style must be one of plain, verl, trl"),
        (f"{FUNCTIONS}:plain", {"columns": {"problem": "prompt"}}, "has no column 'prompt'"),
    ],
)
def test_a_wrong_reward_function_is_named(sums, reward, kwargs, message):
    with pytest.raises(ValueError, match=message):
        RewardFunctionEnv(sums, reward, **kwargs)


def test_all_pass_gymnasiums_checks_and_survive_pickling(sums):
    environments = [
        ("tgpo/RewardFunction-v0", {"path": sums, "reward": f"{FUNCTIONS}:plain"}),
        ("tgpo/Verifiers-v0", {"environment": "reward_functions:verifiers_environment"}),
        ("tgpo/Gem-v0", {"environment": "reward_functions:Countdown"}),
    ]
    for env_id, kwargs in environments:
        env = gymnasium.make(env_id, **kwargs).unwrapped
        check_env(env)
        env.reset(seed=0, options={"index": 1})
        assert pickle.loads(pickle.dumps(env)).step("stop")[1] == env.step("stop")[1]


@pytest.mark.parametrize("old", [False, True])
def test_a_verifiers_environment_brings_data_set_and_rubric(old):
    env = VerifiersEnv("reward_functions:verifiers_environment", kwargs={"old": old})
    assert env.num_problems == 3
    assert env.reset(options={"index": 1})[1]["messages"] == [{"role": "user", "content": "1+1?"}]
    reward, info = step(env, 1, "2")
    assert (reward, info["outcome"], info["reward_parts"]) == (1.0, "correct", {"exact": 1.0, "reward": 1.0})
    assert step(env, 1, "3")[1]["outcome"] == "wrong"
    if not old:
        assert step(env, 1, "break")[1]["detail"] == "RuntimeError: no rubric today"


def test_a_verifiers_environment_of_several_turns_is_refused_and_a_missing_package_named():
    with pytest.raises(ValueError, match="takes several turns"):
        VerifiersEnv("reward_functions:verifiers_environment", kwargs={"turns": 4})
    with pytest.raises(ImportError, match="needs a package that is not installed: no_such_package"):
        VerifiersEnv("no_such_package:make")
    with pytest.raises(ValueError, match=r"cannot begin: ImportError: .* not installed: no_such_package; gem is not"):
        GemEnv("no_such_package:make")
    with pytest.raises(ValueError, match="is neither an id of gem nor 'module:function'; gem is not installed"):
        GemEnv("Wordle")
    with pytest.raises(ValueError, match="environment must be an id or 'module:function'"):
        GemEnv(object())  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be JSON values"):
        VerifiersEnv("reward_functions:verifiers_environment", kwargs={"old": object()})


def test_a_gem_environment_keeps_its_turns_and_follows_seed_and_index():
    env = GemEnv("reward_functions:Countdown", seed=4)
    prompts = [env.reset(options={"index": index})[0] for index in range(20)]
    again = GemEnv("reward_functions:Countdown", seed=4)
    assert prompts == [again.reset(options={"index": index})[0] for index in range(20)]
    assert len(set(prompts)) == 3
    index = prompts.index("count from 3")
    env.reset(options={"index": index})
    assert env.step("on")[:4] == ("\n2 left\n", 0.0, False, False)
    env.step("on")
    observation, reward, terminated, _, info = env.step("stop")
    assert (observation, reward, terminated, info["outcome"]) == ("", 1.0, True, "correct")


def test_turns_of_several_gem_episodes_may_alternate_and_chance_is_found_out():
    first, second = (GemEnv("reward_functions:Countdown", seed=seed) for seed in (4, 5))
    alone = [(env.reset(options={"index": 0}), env.step("on"), env.step("on"))[1:] for env in (first, second)]
    for env in (first, second):
        env.reset(options={"index": 0})
    turns = [(first.step("on"), second.step("on")), (first.step("on"), second.step("on"))]
    assert [tuple(turn[:4] for turn in one) for one in zip(*turns, strict=True)] == [
        tuple(turn[:4] for turn in one) for one in alone
    ]
    dice, other = GemEnv("reward_functions:Dice"), GemEnv("reward_functions:Countdown")
    dice.reset(options={"index": 0})
    dice.step("throw")
    assert not dice.step("throw")[2]  # its process stands where it stood
    other.reset(options={"index": 0})
    _, reward, terminated, _, info = dice.step("throw")  # now it has to be played again
    assert (reward, terminated, info["outcome"]) == (0.0, True, "error")
    assert "its seed does not decide its turns" in info["detail"]
    with pytest.raises(ResetNeeded):
        dice.step("throw")


def test_an_environment_is_a_reward_function_for_trl():
    rows = trl_rows("tgpo/Arithmetic-v0", count=4, digits=[2, 1])
    reward = as_trl_reward("tgpo/Arithmetic-v0", digits=[2, 1])
    env = gymnasium.make("tgpo/Arithmetic-v0", digits=[2, 1]).unwrapped
    right = [env.answer(row["problem_index"]) for row in rows]  # type: ignore[attr-defined]
    texts = [f"\\boxed{{{right[0]}}}", [{"role": "assistant", "content": f"\\boxed{{{right[1]}}}"}], "?", "\\boxed{0}"]
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    assert reward(columns.pop("prompt"), texts, completion_ids=None, **columns) == [1.0, 1.0, 0.0, 0.0]
    assert reward.__name__ == "Arithmetic_v0"


def test_trl_is_told_of_failed_verifiers_and_of_what_is_missing(sums):
    kwargs = {"path": sums, "reward": f"{FUNCTIONS}:forever", "deadline_s": 0.3}
    assert as_trl_reward("tgpo/RewardFunction-v0", **kwargs)(["?"], ["?"], problem_index=[0]) == [None]
    assert as_trl_reward("tgpo/RewardFunction-v0", failed=-1.0, **kwargs)(["?"], ["?"], problem_index=[0]) == [-1.0]
    assert trl_rows("tgpo/RewardFunction-v0", **kwargs)[1]["prompt"][1]["content"] == "2+2?"
    with pytest.raises(ValueError, match="no column 'problem_index'"):
        as_trl_reward("tgpo/Arithmetic-v0")(["?"], ["?"])
    with pytest.raises(ValueError, match="unlimited problems"):
        trl_rows("tgpo/Arithmetic-v0")
    with pytest.raises(ValueError, match="several turns"):
        as_trl_reward("tgpo/GuessNumber-v0")(["?"], ["?"], problem_index=[0])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=80))
def test_no_text_raises_and_every_outcome_is_typed(sums, text):
    for env in (RewardFunctionEnv(sums, f"{FUNCTIONS}:plain"), VerifiersEnv("reward_functions:verifiers_environment")):
        assert step(env, 0, text)[1]["outcome"] in {"correct", "wrong"}
