"""The command line: what it prints when all is well, and one clear message, exit status 2, when the input is bad."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.paths import YAML
from tgpo_ray import cli
from tgpo_ray.train import main as train_main

ROWS = [{"problem": f"{i}+{i}+0+0+0+0+0+0+0+0=", "answer": str(2 * i)} for i in range(8)]  # 20 tokens each


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder: what a command creates there shows."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))  # undoes the entry that cli.main adds
    return folder


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


@pytest.fixture
def job(make_config: Callable[..., Any], tmp_path: Path, rows: Path) -> Path:
    """A YAML file of TGPO on a file of problems; nothing in it is wrong."""
    path = tmp_path / "job.yaml"
    env = {"id": "tgpo/Math-v0", "kwargs": {"path": str(rows), "prompt": "{problem}"}}
    runners = {"max_prompt_tokens": 64, "max_response_tokens": 32}
    evaluation = {"envs": [], "max_problems": None}
    config = make_config("TGPO", env=env, env_runners=runners, evaluation=evaluation)
    config.to_yaml(path)
    return path


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.strip()]


# ---- commands


def test_plan_prints_the_configuration_the_resources_and_the_teachers_last_step(
    job: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    overrides = ["training.num_iterations=50", "guidance.weight=0.01", "guidance.decay=0.001"]
    assert cli.main(["plan", str(job), *overrides]) == 0
    out = capsys.readouterr().out
    assert "old_logprobs: learner" in out  # resolved, no longer null
    assert "env runner" in out and "teacher default" in out and "learner" in out
    assert "last called in iteration 10 of 50" in out
    assert "every 30 minutes, at the end; the newest 2 stay" in out  # no held-out set, so there is no best one


@pytest.mark.parametrize("algorithm", [[], ["TGPO"]])
def test_schema_is_json_schema(algorithm: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema", *algorithm]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert "$defs" in schema or "properties" in schema


def test_make_models_writes_two_models_with_vocabularies_of_their_own(
    rows: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from transformers import AutoConfig, AutoTokenizer

    assert cli.main(["make-models", "--data", str(rows), "--to", "models"]) == 0
    assert lines(capsys.readouterr().out)[-2:] == ["models/policy", "models/teacher"]
    policy, teacher = (AutoConfig.from_pretrained(elsewhere / "models" / name) for name in ("policy", "teacher"))
    assert (policy.model_type, teacher.model_type) == ("qwen2", "qwen3")
    tokenizer = AutoTokenizer.from_pretrained(elsewhere / "models" / "policy")
    text = "Café: ½ of €3 \u2028 is <think>?"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_make_models_reads_problems_with_unicode_line_separators(tmp_path: Path, elsewhere: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text(json.dumps({"problem": "one\u2028two\x85three"}, ensure_ascii=False) + "\n\n", encoding="utf-8")
    assert cli.main(["make-models", "--data", str(data)]) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file: data.jsonl: give a jsonl with a `problem` column"),
        ("", "data.jsonl has no row with a `problem`: the tokenizers are trained on that column"),
        ('{"question": "1+1?"}\n', "data.jsonl has no row with a `problem`"),
        ('{"problem": "1+1?"}\n{"prob', "data.jsonl, line 2 is not JSON: Unterminated string"),
        ("[1]\n", "data.jsonl, line 1 must be a JSON object with a `problem`, got list"),
    ],
)
def test_make_models_explains_data_that_it_cannot_use(
    content: str | None, message: str, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (elsewhere / "data.jsonl").write_text(content)
    assert cli.main(["make-models", "--data", "data.jsonl"]) == 2
    assert lines(capsys.readouterr().err)[-1].startswith(f"tgpo-ray make-models: {message}")
    assert not (elsewhere / "models").exists()


def test_overrides_of_a_study_may_stand_behind_its_variants(capsys: pytest.CaptureFixture[str]) -> None:
    study = str(YAML / "studies" / "methods.yaml")
    assert cli.main(["study", study, "--plan", "--variants", "grpo", "tgpo_far", "seeds=[5]"]) == 0
    printed = capsys.readouterr().out
    assert "2 runs" in printed and "grpo-seed5" in printed and "tgpo_far-seed5" in printed
    assert "traces-far" not in printed  # which neither of the two reads
    assert cli.main(["study", study, "--plan", "--variants", "grpo", "nope"]) == 2
    assert "no variant 'nope'" in capsys.readouterr().err


def test_report_compares_run_folders(tmp_path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, accuracy in (("TGPO", 0.5), ("GRPO", 0.4)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").write_text(f"algorithm: {name}\n")
        rows = [{"iteration": i, "reward": 0.1 * i, "evaluation/accuracy": accuracy} for i in range(3)]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert cli.main(["report", str(tmp_path / "TGPO"), str(tmp_path / "GRPO")]) == 0
    assert capsys.readouterr().out.strip() == "report.html"
    page = (elsewhere / "report.html").read_text()
    assert "TGPO" in page and "GRPO" in page


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--port", "8000"], "--port: needs --watch"),
        (["--watch", "--to", "x.html"], "--to: a report that is served is not written"),
        (["--watch"], "--watch: no such folder"),
    ],
)
def test_report_refuses_options_that_mean_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    assert cli.main(["report", str(tmp_path / "none"), *options]) == 2
    assert message in capsys.readouterr().err


def test_report_names_a_folder_that_holds_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", str(tmp_path)]) == 2
    assert "holds no metrics.jsonl: give the folder of a run" in capsys.readouterr().err


def test_evaluate_without_a_held_out_set_fails_at_once(job: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["evaluate", str(job)]) == 2
    assert "evaluation.envs: required here: name at least one held-out set" in capsys.readouterr().err


# ---- bad input: exit status 2 and one message, before Ray starts, and nothing on the disk


def refused(arguments: list[str], capsys: pytest.CaptureFixture[str], folder: Path) -> list[str]:
    """The lines of the message of `tgpo_ray.train`."""
    import ray

    running = ray.is_initialized()
    assert train_main(arguments) == 2
    assert ray.is_initialized() == running
    out, err = capsys.readouterr()
    assert not lines(out)
    assert "Traceback" not in err
    assert list(folder.rglob("*")) == []
    return lines(err)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["envs.0.kwargs.path=no.jsonl"], "envs.0 (tgpo/Math-v0): no data set at 'no.jsonl'"),
        (["envs.0.kwargs.columns={answer: gold}"], "has no column 'gold'. Columns found: problem, answer. Choose with"),
        (["envs.0.kwargs.columns={answer: answr}"], "has no column 'answr'; did you mean 'answer'?"),
        (["envs.0.id=tgpo/Maths-v0"], "no such environment is registered; did you mean 'tgpo/Math-v0'?"),
        (["envs.0.id=nowhere:Env-v0"], "envs.0 (nowhere:Env-v0): ModuleNotFoundError: "),
        (["envs.0.kwargs.promt=plain"], "unknown argument 'promt': did you mean 'prompt'?"),
        (["training.guidence_weight=1"], "training.guidence_weight: unknown key; did you mean 'guidance.weight'?"),
        (["training.lr=fast"], "training.lr: expected a number, got 'fast'"),
        (["model.path=./policy"], "model.path: no such folder: ./policy"),
        (["env_runners.max_prompt_tokens=100"], "max_response_tokens = 132 exceeds the context of 128"),
        (["env_runners.max_prompt_tokens=16"], "prompts have more than env_runners.max_prompt_tokens = 16 tokens"),
        (["env_runners.kv_cache_memory=1KiB"], "env_runners.kv_cache_memory: must be >= "),
        (["teachers=null"], "teachers: required: TGPO learns from one; write teacher: {path: folder or id}"),
    ],
)  # fmt: skip
def test_bad_input_is_one_clear_message(
    overrides: list[str], message: str, job: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = "\n".join(refused([str(job), *overrides], capsys, elsewhere))
    assert problem.startswith("configuration error: ")
    assert message in problem


def test_every_problem_has_its_line(job: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = refused([str(job), "training.lr=-1", "modle.path=x"], capsys, elsewhere)
    assert len(found) == 2
    assert "must be > 0" in found[0] + found[1] and "did you mean 'model'?" in found[0] + found[1]


def test_a_missing_yaml_file_is_named(elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (problem,) = refused(["nowhere.yaml"], capsys, elsewhere)
    assert "nowhere.yaml: no such file" in problem


def test_an_empty_data_set_is_named(job: Path, rows: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows.write_text("")
    (problem,) = refused([str(job)], capsys, elsewhere)
    assert f"data set {str(rows)!r} has no rows: give a file with at least one problem" in problem


def test_a_model_folder_without_a_tokenizer_is_named(
    job: Path, tiny_models: dict[str, str], tmp_path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(tiny_models["policy"], folder, ignore=shutil.ignore_patterns("tokenizer*"))
    (problem,) = refused([str(job), f"model.path={folder}"], capsys, elsewhere)
    assert f"model.path: {folder} has no tokenizer (such as tokenizer.json): name one as model.tokenizer" in problem


def test_a_tokenizer_that_cannot_be_read_is_named(
    job: Path, tiny_models: dict[str, str], tmp_path: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "broken"
    shutil.copytree(tiny_models["policy"], folder)
    (folder / "tokenizer.json").write_text("{")
    (problem,) = refused([str(job), f"model.path={folder}"], capsys, elsewhere)
    assert f"model.path: {folder}: its tokenizer cannot be read (" in problem


def test_a_folder_to_resume_that_is_not_there_is_named(
    job: Path, elsewhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (problem,) = refused([str(job), "--resume", "nowhere"], capsys, elsewhere)
    assert f"--resume: no such folder: {elsewhere}/nowhere" in problem


# ---- the GSM8K files


@pytest.mark.parametrize("name", ["gsm8k.yaml", "gsm8k_tiny.yaml"])
def test_a_gsm8k_file_without_its_data_says_what_is_missing(
    name: str, elsewhere: Path, tiny_models: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [str(YAML / name)]
    if name == "gsm8k_tiny.yaml":
        found = refused(arguments, capsys, elsewhere)
        assert "model.path: no such folder: ./models/policy" in found[0]
    arguments += [f"model.path={tiny_models['policy']}", f"teacher.path={tiny_models['teacher']}"]
    if name == "gsm8k.yaml":  # the tiny models read 128 tokens
        arguments += ["env_runners.max_prompt_tokens=40", "env_runners.max_response_tokens=80"]
    (problem,) = refused(arguments, capsys, elsewhere)
    assert "envs.0 (tgpo/Math-v0): no data set at 'gsm8k_train.jsonl' (looked for" in problem


def test_the_tiny_gsm8k_run_has_room_for_every_prompt(
    elsewhere: Path, data_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(data_folder / "gsm8k_train.jsonl")
    assert cli.main(["make-models", "--data", data, "--to", "models"]) == 0
    arguments = ["plan", str(YAML / "gsm8k_tiny.yaml"), f"envs.0.kwargs.path={data}"]
    assert cli.main(arguments) == 0
    assert cli.main([*arguments, "env_runners.max_prompt_tokens=800"]) == 2
    assert re.search(r"prompts? ha(s|ve) more than env_runners.max_prompt_tokens = 800 tokens", capsys.readouterr().err)
