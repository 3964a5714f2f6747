"""A job that is killed and submitted again with `--resume auto` has the figures of one that was left alone."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tgpo_ray.reporting.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TIMED = ("time/", "throughput/", "wait/")
OF_THE_PROCESS = {"sampler/gap", "recoveries"}  # measured in the process's own second iteration; counted in a process


def figures(folder: Path) -> list[dict[str, Any]]:
    """The rows without what a clock measures."""
    rows = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith(TIMED) and k not in OF_THE_PROCESS} for row in rows]


def test_a_killed_job_goes_on_to_the_last_digit(
    write_job: Callable[..., Path], start_train: Callable[..., Any], tmp_path: Path
) -> None:
    sections: dict[str, Any] = {
        "training": {"num_iterations": 6, "updates_per_iteration": 2},
        "evaluation": {"every": 3, "envs": [{"id": "tgpo/Arithmetic-v0", "kwargs": {"digits": [1, 1]}}],
                       "max_problems": 8},
        "reporting": {"progress": True},
    }  # fmt: skip
    alone = write_job(tmp_path / "alone", checkpointing={"storage_path": "runs", "every": 2}, **sections)
    run = start_train(alone)
    assert run.wait() == 0, run.text()

    storage = {"storage_path": f"file://{tmp_path}/store", "every": 2}
    job = write_job(tmp_path / "killed", checkpointing=storage, **sections)
    run = start_train(job, "--resume", "auto")
    run.wait_for("4/6  reward")
    run.signal(signal.SIGKILL)
    run.wait()
    again = start_train(job, "--resume", "auto")
    assert again.wait() == 0, again.text()
    assert "resumed at iteration " in again.text() and again.lines()[-1] == f"done: file://{tmp_path}/store/job"
    assert figures(tmp_path / "store/job") == figures(alone.parent / "runs/job")
