"""Two tiny models on the shared sets by the real command: killed, resumed, and scored again without sampling."""

from __future__ import annotations

import contextlib
import csv
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.paths import ROOT
from tgpo_ray.models import make_text_models
from tgpo_ray.suites.answers_file import read_answers, read_header

SESSION = "TGPO_RAY_TEST_SESSION"
NUM_ARC = 40
OVERRIDES = (
    "env_runners.max_prompt_tokens=448", "env_runners.max_response_tokens=48", "env_runners.kv_cache_memory=64MiB",
    "env_runners.overlong_prompts=drop", "env_runners.num_cpus_per_env_runner=1", "env_runners.num_verifier_workers=1",
    "env_runners.max_num_seqs=16", f"evaluation.max_problems={NUM_ARC}", "evaluation.envs.0.num_samples=4",
    "evaluation.kwargs.prompt=plain",
)  # fmt: skip
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path, clean_environment: Mapping[str, str]) -> Iterator[Start]:
    """start(*arguments) -> `tgpo-ray evaluate --suite paper ...` in a process of its own, with its own Ray."""
    session = f"suite-{tmp_path.name}-{time.monotonic_ns()}"
    with tempfile.TemporaryDirectory(prefix="ts", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:
        environment = {**clean_environment, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": ray_folder, SESSION: session}

        def run(*arguments: str) -> subprocess.Popen[str]:
            command = [sys.executable, "-m", "tgpo_ray.cli", "evaluate", "--suite", "paper", *arguments]
            with (tmp_path / "output.txt").open("a") as file:
                return subprocess.Popen(
                    command, cwd=tmp_path, env=environment, stdout=file, stderr=subprocess.STDOUT, text=True
                )

        yield run
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                if process.environ().get(SESSION) == session:
                    process.kill()


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def kill_when_begun(process: subprocess.Popen[str], path: Path, output: Path) -> None:
    end = time.monotonic() + 400
    while lines_of(path) < 4:  # the header and three problems
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < end, output.read_text()
        time.sleep(0.02)
    process.kill()
    process.wait()


def table(folder: Path) -> dict[tuple[str, str], dict[str, Any]]:
    with (folder / "table.csv").open(newline="") as file:
        return {(row["model"], row["set"]): row for row in csv.DictReader(file)}


def check_answers(out: Path) -> None:
    """Every problem of both sets has its k answers once, of both models."""
    found = table(out)
    for model in ("policy", "teacher"):
        assert int(found[model, "AIME24"]["k"]) == 4 and int(found[model, "ARC-c"]["k"]) == 1
        assert float(found[model, "AIME24"]["truncated"]) > 0.5  # random models hardly ever end
        for name, most in (("AIME24", 30), ("ARC-c", NUM_ARC)):
            rows = list(read_answers(out / model / f"{name}.jsonl"))
            assert len(rows) == len({row.problem for row in rows}) == int(found[model, name]["problems_of_set"]) <= most
            assert all(len(row.answers) == int(found[model, name]["k"]) for row in rows)
            assert all(0 < it.num_tokens <= 48 for row in rows for it in row.answers)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_models_on_the_shared_sets_killed_resumed_and_scored_again(
    start: Start, data_folder: Path, tmp_path: Path
) -> None:
    models = make_text_models(str(data_folder / "gsm8k_test.jsonl"), tmp_path / "models")
    out, output = tmp_path / "out", tmp_path / "output.txt"
    options = ["--sets", str(data_folder), "--only", "AIME24,ARC-c", "--to", str(out)]
    arguments = [*map(str, models), *options, *OVERRIDES]
    aime = out / "policy" / "AIME24.jsonl"

    kill_when_begun(start(*arguments), aime, output)
    before = {row.problem: row for row in read_answers(aime)}
    assert start(*arguments).wait(900) == 0, output.read_text()

    check_answers(out)
    sizes = {key: row["problems_of_set"] for key, row in table(out).items()}
    after = {row.problem: row for row in read_answers(aime)}
    assert len(before) >= 2 and before.items() <= after.items()  # nothing was sampled twice

    # another verifier: a response must now close a thought, and none does
    gate = "evaluation.kwargs.format_gate=true"
    assert start(*arguments, gate).wait(300) == 2
    assert "score its answers again with --rescore" in output.read_text()
    begun = time.monotonic()
    assert start(*arguments, gate, "--rescore").wait(300) == 0, output.read_text()
    print(f"scored again in {time.monotonic() - begun:.1f} s")
    assert {float(row["unparsable"]) for row in table(out).values() if row["unparsable"]} == {1.0}
    assert {key: row["problems_of_set"] for key, row in table(out).items()} == sizes  # without what is too long
    assert [it.text for row in read_answers(aime) for it in row.answers] == [
        it.text for problem in after for it in after[problem].answers
    ]
    assert read_header(aime)["scoring"]["format_gate"] is True

    # nothing is missing, so that no engine starts; and another temperature is refused
    assert start(*arguments, gate).wait(300) == 0, output.read_text()
    assert start(*arguments, gate, "evaluation.temperature=1.0").wait(300) == 2
    assert "temperature: 0.6 there, 1.0 here" in output.read_text()
    print((out / "table.md").read_text())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_runs_model_is_evaluated_without_learners_and_teachers(
    make_config: Callable[..., Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tgpo_ray import cli

    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("evaluate has started learners or teachers")

    monkeypatch.setattr("tgpo_ray.driver.algorithm.build_learners", refused)
    monkeypatch.setattr("tgpo_ray.teachers.building.build_teachers", refused)
    path = tmp_path / "job.yaml"
    # more learners than any machine has: nobody asks for them
    make_config("TGPO", learners={"num_learners": 500}).to_yaml(path)
    assert cli.main(["evaluate", str(path), "evaluation.num_samples=2"]) == 0
    printed = capsys.readouterr().out
    assert '"evaluation/pass_at_2"' in printed and '"evaluation/num_problems": 3.0' in printed
