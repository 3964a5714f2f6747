"""Runs of `python -m tgpo_ray.train` in processes of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

ENVIRONMENTS = '''
"""An environment whose reward turns to NaN, and one that says nothing of itself."""

import gymnasium

from tgpo_ray.envs.arithmetic import ArithmeticEnv


class NanEnv(ArithmeticEnv):
    """Procedural problems; from problem `first_bad` on the reward is NaN."""

    def __init__(self, first_bad, **kwargs):
        super().__init__(**kwargs)
        self.first_bad = first_bad

    def reset(self, *, seed=None, options=None):
        self.index = (options or {}).get("index", 0)
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        bad = self.index >= self.first_bad
        return observation, float("nan") if bad else reward, terminated, truncated, info


gymnasium.register("tests/Nan-v0", entry_point=NanEnv)
'''


@dataclass
class TrainProcess:
    """A running `python -m tgpo_ray.train`; `session` marks its processes by an environment variable."""

    process: subprocess.Popen[str]
    output: Path
    session: str

    def text(self) -> str:
        return self.output.read_text()

    def lines(self) -> list[str]:
        return [line for line in self.text().splitlines() if line.strip()]

    def wait_for(self, text: str, timeout_s: float = 200.0) -> None:
        end = time.monotonic() + timeout_s
        while text not in self.text():
            assert self.process.poll() is None, f"the run ended early:\n{self.text()}"
            assert time.monotonic() < end, f"{text!r} did not appear:\n{self.text()}"
            time.sleep(0.05)

    def wait(self, timeout_s: float = 200.0) -> int:
        return self.process.wait(timeout_s)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@pytest.fixture(scope="session")
def write_job(make_config: Callable[..., Any]) -> Callable[..., Path]:
    """write_job(folder, "GRPO", section={...}) -> a YAML file there of a run with the tiny models, and nan_env.py."""

    def write(folder: Path, algorithm: str = "GRPO", /, **sections: Any) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "nan_env.py").write_text(ENVIRONMENTS)
        path = folder / "job.yaml"
        defaults = {"checkpointing": {"storage_path": "runs"}, "evaluation": {"envs": [], "max_problems": None}}
        make_config(algorithm, name="job", **{**defaults, **sections}).to_yaml(path)
        return path

    return write


@pytest.fixture
def start_train(tmp_path: Path, clean_environment: dict[str, str]) -> Iterator[Callable[..., TrainProcess]]:
    """start_train(yaml, *overrides, VARIABLE="1") -> the run, started in the YAML file's folder, with its own Ray."""
    started: list[TrainProcess] = []
    # Ray's sockets lie below its folder, and their paths must be short
    with tempfile.TemporaryDirectory(prefix="tr", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:

        def start(path: Path, *overrides: str, **variables: str) -> TrainProcess:
            output = tmp_path / f"output-{len(started)}.txt"
            session = f"{tmp_path.name}-{os.getpid()}-{len(started)}"
            environment = clean_environment | {
                "PYTHONPATH": str(ROOT),
                "RAY_TMPDIR": ray_folder,
                "TGPO_RAY_TEST_SESSION": session,
                **variables,
            }
            with output.open("w") as file:
                process = subprocess.Popen(
                    [sys.executable, "-m", "tgpo_ray.train", path.name, *overrides],
                    cwd=path.parent, env=environment, stdout=file, stderr=subprocess.STDOUT, text=True,
                )  # fmt: skip
            started.append(TrainProcess(process, output, session))
            return started[-1]

        yield start
        for run in started:
            if run.process.poll() is None:
                run.process.kill()
                run.process.wait()
