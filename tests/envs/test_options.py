"""Options of environments: flat arguments in, typed objects inside, one documentation for each."""

from __future__ import annotations

import importlib
import inspect
import os
import pickle
import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass, fields
from pathlib import Path
from typing import Any

import gymnasium
import pytest

from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.env_runners import all_envs
from tgpo_ray.envs import REGISTERED, RowOptions, VerifierOptions, options_of, takes
from tgpo_ray.envs.math_env import MathEnv, MathOptions
from tgpo_ray.envs.math_tool import MathToolEnv, MathToolOptions

ROOT = Path(__file__).resolve().parents[2]


def env_class(env_id: str) -> type:
    module, _, name = REGISTERED[env_id].partition(":")
    return getattr(importlib.import_module(module), name)


@pytest.mark.parametrize("env_id", REGISTERED)
def test_every_environment_takes_options_and_documents_each(env_id: str) -> None:
    options = options_of(env_class(env_id))
    assert options is not None
    texts = options.texts()
    assert list(texts) == [option.name for option in fields(options)]
    assert [name for name, text in texts.items() if not text.endswith(".")] == []


@pytest.mark.parametrize("env_id", REGISTERED)
def test_the_signature_shows_the_options_as_flat_arguments(env_id: str) -> None:
    made = env_class(env_id)
    options = options_of(made)
    assert options is not None
    parameters = inspect.signature(made).parameters
    assert set(parameters) == {option.name for option in fields(options)}
    positional = [name for name, one in parameters.items() if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert positional == [name for name, one in parameters.items() if one.default is one.empty]


@pytest.mark.parametrize("env_id", REGISTERED)
def test_an_unknown_argument_is_refused_with_the_nearest_name(env_id: str) -> None:
    made = env_class(env_id)
    name = list(inspect.signature(made).parameters)[-1]
    message = rf"{made.__name__}.__init__\(\) got an unexpected keyword argument '{name}x'; did you mean '{name}'\?"
    with pytest.raises(TypeError, match=message):
        made(**{f"{name}x": 1})
    with pytest.raises(TypeError, match=r"unexpected keyword argument 'zzz'$"):
        made(zzz=1)


def test_a_missing_argument_is_named() -> None:
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'path'"):
        MathEnv()  # pyright: ignore[reportCallIssue]


def test_an_environment_holds_its_options(write_jsonl: Any) -> None:
    path = write_jsonl({"problem": "1+1?", "answer": 2})
    env: Any = gymnasium.make("tgpo/Math-v0", path=path, prompt="think", rounding=3).unwrapped
    assert env.options == MathOptions(path, prompt="think", rounding=3)
    assert env.options == pickle.loads(pickle.dumps(env)).options
    with pytest.raises(FrozenInstanceError):
        env.options.rounding = 4


def test_a_group_gives_its_part_of_the_arguments() -> None:
    options = MathToolOptions("a.jsonl", max_turns=3, tolerance=0.5)
    assert options.arguments(VerifierOptions) == {"deadline_s": 5.0, "verify_workers": 1}
    assert MathOptions(**options.arguments(MathOptions)) == MathOptions("a.jsonl", tolerance=0.5)
    assert MathToolOptions(**options.arguments()) == options


def test_the_checks_of_every_group_run() -> None:
    wrong: dict[str, Any]
    for wrong, message in (
        ({"deadline_s": 0}, "deadline_s must be > 0"),
        ({"prompt": "thnk"}, "did you mean 'think'"),
        ({"rounding": -1}, "tolerance and rounding must be >= 0"),
        ({"turn_role": "nobody"}, "turn_role must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            MathToolOptions("a.jsonl", **wrong)


def test_ones_own_options_take_over_groups_and_need_no_source() -> None:
    source = """
@dataclass(frozen=True, kw_only=True)
class Own(RowOptions):
    bonus: float = 0.0
    '''A text that nobody finds without the source.'''
"""
    namespace: dict[str, Any] = {"dataclass": dataclass, "RowOptions": RowOptions}
    exec(source, namespace)
    own: Any = namespace["Own"]

    class OwnEnv:
        @takes(own)
        def __init__(self, options: Any) -> None:
            self.options = options

    assert OwnEnv("a.jsonl", bonus=0.5).options.bonus == 0.5
    assert own.texts()["path"].startswith("A jsonl or parquet file")
    assert own.texts()["bonus"] == ""
    assert options_of(object) is None


def test_the_runners_settings_reach_the_environments_that_take_them() -> None:
    runners = {"verify_deadline_s": 7.0, "num_verifier_workers": 3}
    ids = {"tgpo/Math-v0": True, "tgpo/MathTool-v0": True, "tgpo/Arithmetic-v0": False}
    config = AlgorithmConfig.from_dict(
        {
            "algorithm": "GRPO",
            "model": {"path": "policy"},
            "envs": [
                {"id": env_id, "kwargs": {"path": "a.jsonl"} if takes_path else {}}
                for env_id, takes_path in ids.items()
            ],
            "env_runners": runners,
        }
    )
    for spec in all_envs(config):
        expected = {"deadline_s": 7.0, "verify_workers": 3} if ids[spec.id] else {}
        assert {name: value for name, value in spec.kwargs.items() if name != "path"} == expected


def test_the_pages_tables_are_those_of_the_options() -> None:
    command = [sys.executable, "docs/generate_environments.py", "--check"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr


def test_the_pages_example_of_ones_own_options_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (ROOT / "docs" / "custom_environment.md").read_text(encoding="utf-8")
    (block,) = [text for text in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL) if "@takes" in text]
    (tmp_path / "own_options_example.py").write_text(block)
    (tmp_path / "words.jsonl").write_text('{"problem": "abc", "answer": "cba"}\n')
    monkeypatch.syspath_prepend(str(tmp_path))
    example = importlib.import_module("own_options_example")
    env = example.ReverseEnv(str(tmp_path / "words.jsonl"), bonus=0.5)
    assert env.rows == [{"problem": "abc", "answer": "cba"}] and env.options.bonus == 0.5
    assert env.argument_texts()["bonus"] == "Added to the reward of a response of one line."


def test_a_calculators_environment_gets_the_options_of_mathematics(write_jsonl: Any) -> None:
    path = write_jsonl({"question": "1+1?", "answer": 2})
    env = MathToolEnv(path, columns={"problem": "question"}, prompt="chat", turn_role="tool", deadline_s=2.0)
    assert (env.num_problems, env.turn_role, env.deadline_s) == (1, "tool", 2.0)
