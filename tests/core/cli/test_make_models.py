"""`tgpo-ray make-models --env`: tiny models that know an environment's right responses a little."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import pytest

from tgpo_ray import cli
from tgpo_ray.cli.make_models import NUM_LESSONS, NUM_PROBLEMS, gold_pairs, lessons_of

ENV = '''
import gymnasium
from tgpo_ray.envs import Problem, SingleTurnEnv


class Echo(SingleTurnEnv):
    """Says what it hears."""

    def __init__(self, *, known=5, num_problems=5):
        super().__init__()
        self.known, self.num_problems = known, num_problems

    def problem(self, index, rng):
        return Problem(prompt=f"say {index}: ", answer=str(index))

    def gold_response(self, index):
        return str(index) if index < self.known else None

    def verify(self, problem, response):
        return float(response == problem.answer)


gymnasium.register("MadeEcho-v0", Echo)
'''


@pytest.fixture
def echo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The id of an environment in the working folder, which is empty otherwise."""
    (tmp_path / "made_echo.py").write_text(ENV)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "made_echo:MadeEcho-v0"
    gymnasium.registry.pop("MadeEcho-v0", None)
    sys.modules.pop("made_echo", None)


def test_an_environments_problems_come_with_their_right_responses(echo: str) -> None:
    assert gold_pairs(echo, {})[:2] == [("say 0: ", "0"), ("say 1: ", "1")]
    assert len(gold_pairs(echo, {"num_problems": 3})) == 3
    assert len(gold_pairs("tgpo/Arithmetic-v0", {"digits": [1, 1]})) == NUM_PROBLEMS  # it has no last problem
    prompt, response = gold_pairs("tgpo/GuessNumber-v0", {})[0]
    assert "\n" not in response and prompt  # of several turns the first


def test_policy_and_teacher_learn_an_environments_lessons_where_it_has_some(echo: str) -> None:
    lessons = lessons_of("tgpo/LookupChain-v0", {"length": 2})
    assert lessons.keys() == {"policy", "teacher"} and lessons["policy"] != lessons["teacher"]
    assert len(lessons["policy"]) == NUM_LESSONS
    same = lessons_of(echo, {})
    assert same["policy"] == same["teacher"] == gold_pairs(echo, {})


def test_models_are_written_for_an_environment(echo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    command = ["make-models", "--env", echo, "--kwargs", "num_problems=4", "--steps", "1", "1", "--to", "tiny"]
    assert cli.main(command) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == ["tiny/policy", "tiny/teacher"]
    for name, kind in (("policy", "qwen2"), ("teacher", "qwen3")):
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny" / name)
        assert model.config.model_type == kind
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tiny" / name)
        assert tokenizer.decode(tokenizer.encode("say 3: Ü")) == "say 3: Ü"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--env", "made_echo:MadeEcho-v0", "--kwargs", "known=2"],
         "made_echo:MadeEcho-v0 knows no right response to problem 2, which the models would learn: define "
         "gold_response(index), or make random models with --data"),
        (["--env", "Nowhere-v0"], "Nowhere-v0: no such environment is registered"),
        (["--data", "x.jsonl", "--kwargs", "known=2"], "--kwargs are arguments of an environment: they need --env"),
        (["--data", "x.jsonl", "--steps", "5", "5"],
         "--steps are of models that learn an environment: they need --env"),
        (["--env", "made_echo:MadeEcho-v0", "--steps", "0", "5"], "--steps: must be >= 1 each, got 0 5"),
    ],
)  # fmt: skip
def test_what_it_cannot_use_is_explained(
    echo: str, arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["make-models", *arguments]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"tgpo-ray make-models: {message}")
    assert not (tmp_path / "models").exists()


@pytest.mark.parametrize("arguments", [[], ["--data", "x.jsonl", "--env", "made_echo:MadeEcho-v0"]])
def test_it_takes_a_file_or_an_environment(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        cli.main(["make-models", *arguments])
    assert raised.value.code == 2
    assert "--env" in capsys.readouterr().err
