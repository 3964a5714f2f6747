"""Studies on a real Ray Tune, whose runs are `python -m tgpo_ray.train` of a method without actors."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from tests.waiting import eventually
from tgpo_ray.config import dump_yaml

pytestmark = [pytest.mark.long, pytest.mark.timeout(1200)]

OWN_LINES = ("2 of 2 runs are to be made", "starts ", "ended ", "failed ", "page: ")

METHOD = '''
"""A method whose weights are one number. Its accuracy rises with the learning rate; `fail_at` ends the run."""

import time

from pydantic import Field

from tgpo_ray.cluster import join, read_text, write_text
from tgpo_ray.config import AlgorithmConfig, OptimizerConfig
from tgpo_ray.driver.checkpoint_state import STATE_FILE, read_state, state_text


class CountingTraining(OptimizerConfig):
    fail_at: int | None = Field(default=None, description="Iteration that fails.")
    pause_s: float = Field(default=0.3, description="Seconds of an iteration.")


class CountingConfig(AlgorithmConfig):
    algo_class = "counting_method:CountingRun"
    needs_envs = False
    group_relative = False
    training: CountingTraining = Field(default_factory=CountingTraining)


class CountingRun:
    config_class = CountingConfig
    num_recoveries, between_updates = 0, True

    def __init__(self, config, *, env_runners=None, teachers=None, run_folder=None, session=None):
        self.config, self.folder, self.session = config.resolved(gpus=False), run_folder, session
        self.iteration, self.number, self.sampled, self._last = 0, 0.0, [], ""
        print(f"run folder: {run_folder}", flush=True)

    num_iterations = property(lambda self: self.config.num_iterations)

    def train(self):
        if self.iteration + 1 == self.config.training.fail_at:
            raise RuntimeError("the number is gone")
        time.sleep(self.config.training.pause_s)
        self.iteration += 1
        self.number += self.config.training.lr
        return {"reward": self.number, "tokens/response": 1.0}

    def evaluate(self):
        return {"evaluation/accuracy": self.number, "evaluation/reward": self.number}, []

    def save(self):
        group = "checkpoints" if self.session == 1 else f"checkpoints-{self.session}"
        self._last = join(self.folder, group, f"checkpoint_{self.iteration:06d}")
        write_text(join(self._last, "number"), str(self.number))
        state = {"algorithm": self.config.algorithm, "iteration": self.iteration}
        write_text(join(self._last, STATE_FILE), state_text(self.config, state))
        return self._last

    def checkpoint_folders(self):
        return [self._last]

    def restore(self, path):
        self.iteration = read_state(path, self.config.algorithm)["iteration"]
        self.number, self._last = float(read_text(join(path, "number"))), path

    def recover(self, error):
        raise error

    def stop(self):
        pass
'''


@pytest.fixture
def study(
    tmp_path: Path, clean_environment: Mapping[str, str], tiny_models: Mapping[str, str]
) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """study(key=value, ...) -> the command on a study of two learning rates and two seeds, which has been started."""
    (tmp_path / "counting_method.py").write_text(METHOD)
    base = {
        "algorithm": "counting_method:CountingConfig",
        "model": {"path": tiny_models["policy"]},
        "training": {"num_iterations": 6},
        "evaluation": {"every": 1, "envs": [{"id": "tgpo/Arithmetic-v0", "kwargs": {"split": "test"}}]},
        "learners": {"num_cpus_per_learner": 0.5},
        "env_runners": {"num_cpus_per_env_runner": 0.5, "max_prompt_tokens": 16, "max_response_tokens": 32},
        "checkpointing": {"every": 1},
        "fault_tolerance": {"preflight": False},
    }
    variants = {"slow": {"set": {"training.lr": 0.01}}, "fast": {"set": {"training.lr": 0.1}}}
    started: list[subprocess.Popen[str]] = []
    with tempfile.TemporaryDirectory(prefix="st", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:
        environment = {**clean_environment, "PYTHONPATH": f"{tmp_path}:{ROOT}", "RAY_TMPDIR": ray_folder}

        def start(*arguments: str, **fields: Any) -> subprocess.Popen[str]:
            data = {"base": base, "variants": variants, "seeds": [0, 1], "baseline": "slow", "num_cpus": 2, **fields}
            (tmp_path / "small.yaml").write_text(dump_yaml(data))
            command = [sys.executable, "-m", "tgpo_ray.cli", "study", "small.yaml", *arguments]
            with (tmp_path / f"output-{len(started)}.txt").open("w") as output:
                process = subprocess.Popen(
                    command, cwd=tmp_path, env=environment, stdout=output, stderr=subprocess.STDOUT, text=True
                )
            started.append(process)
            return process

        yield start
        for process in started:
            if process.poll() is None:
                process.kill()
                process.wait()


def said(tmp_path: Path, number: int = 0) -> str:
    return (tmp_path / f"output-{number}.txt").read_text()


def runs(tmp_path: Path) -> dict[str, dict[str, str]]:
    with (tmp_path / "runs" / "studies" / "small" / "runs.csv").open() as file:
        return {f"{row['variant']}-seed{row['seed']}": row for row in csv.DictReader(file)}


def iterations(tmp_path: Path, name: str) -> list[int]:
    path = tmp_path / "runs" / "studies" / "small" / "runs" / name / "metrics.jsonl"
    return [json.loads(line)["iteration"] for line in path.read_text().splitlines()] if path.exists() else []


def wait_for_iteration(number: int, process: subprocess.Popen[str], tmp_path: Path) -> None:
    """Until the run slow-seed0 has it, or the study has ended, which it must not."""
    found = eventually(lambda: process.poll() is not None or number in iterations(tmp_path, "slow-seed0"), 600.0)
    assert found and process.poll() is None, said(tmp_path)


def test_variants_times_seeds_with_a_failure_and_another_try(study: Any, tmp_path: Path) -> None:
    failing = {"slow": {"set": {"training.lr": 0.01}}, "bad": {"set": {"training.fail_at": 3}}}
    assert study(variants=failing, seeds=[0]).wait(600) == 1, said(tmp_path)
    found = runs(tmp_path)
    assert found["slow-seed0"]["state"] == "finished"
    assert float(found["slow-seed0"]["evaluation/accuracy"]) == pytest.approx(0.06)
    assert (found["bad-seed0"]["state"], found["bad-seed0"]["iterations"]) == ("failed", "2")
    assert "the number is gone" in found["bad-seed0"]["reason"]
    lines = [line for line in said(tmp_path).splitlines() if not line.startswith(OWN_LINES)]
    assert not lines, lines  # nothing of Tune's own
    assert study(variants=failing, seeds=[0]).wait(600) == 1  # nothing to be made
    assert "starts" not in said(tmp_path, 1)
    assert study("--retry", variants=failing, seeds=[0]).wait(600) == 1
    assert "starts bad-seed0" in said(tmp_path, 2) and "starts slow-seed0" not in said(tmp_path, 2)
    assert (
        "resumed at iteration 2 of 6" in (tmp_path / "runs/studies/small/runs/trials/bad-seed0/output.txt").read_text()
    )


def test_a_killed_study_goes_on_where_it_was(study: Any, tmp_path: Path) -> None:
    first = study()
    wait_for_iteration(3, first, tmp_path)
    first.kill()
    first.wait()
    assert study().wait(900) == 0, said(tmp_path, 1)
    assert {run["state"] for run in runs(tmp_path).values()} == {"finished"} and len(runs(tmp_path)) == 4
    assert iterations(tmp_path, "slow-seed0") == list(range(7))
    assert "resumed at iteration" in (tmp_path / "runs/studies/small/runs/trials/slow-seed0/output.txt").read_text()


def test_an_interrupted_study_says_how_it_goes_on(study: Any, tmp_path: Path) -> None:
    process = study(at_once=1)  # so that no other run ends meanwhile
    wait_for_iteration(1, process, tmp_path)
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 1, said(tmp_path)
    assert "4 of 4 runs are not finished: start the same command again to go on" in said(tmp_path)


def test_asha_ends_runs_that_are_behind(study: Any, tmp_path: Path) -> None:
    asha = {"asha": {"grace_period": 2, "reduction_factor": 2}, "at_once": 1, "seeds": [0, 1, 2]}
    variants = {"fast": {"set": {"training.lr": 0.1}}, "slow": {"set": {"training.lr": 0.01}}}
    assert study(variants=variants, **asha).wait(900) == 0, said(tmp_path)
    states = {name: run["state"] for name, run in runs(tmp_path).items()}
    assert states["fast-seed0"] == "finished" and "stopped" in states.values(), states
    stopped = [name for name, state in states.items() if state == "stopped"]
    assert all(len(iterations(tmp_path, name)) < 7 for name in stopped)


def test_a_population_goes_on_from_the_better_ones_checkpoint(study: Any, tmp_path: Path) -> None:
    """Members start one after the other; each iteration is long enough for both to be alive for most of their runs."""
    pbt = {"every": 4, "quantile": 0.5, "mutate": {"training.lr": {"choice": [0.01, 0.1]}}}
    member = {"set": {"training.pause_s": 2.0, "training.num_iterations": 20}}
    process = study(
        variants={"member": member}, seeds=[0], baseline=None, pbt=pbt, num_samples=2, search_seed=1, num_cpus=4
    )
    assert process.wait(900) == 0, said(tmp_path)
    outputs = [path.read_text() for path in (tmp_path / "runs/studies/small/runs/trials").glob("*/output.txt")]
    assert any("begins at iteration" in text for text in outputs), said(tmp_path)
    with (tmp_path / "runs" / "studies" / "small" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["state"] for row in rows] == ["finished"] * 2  # each member under its own name
