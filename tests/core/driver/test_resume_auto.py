"""A job that is killed and submitted again with `--resume auto` has the figures of one that was left alone."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.core.cluster.object_store import ObjectStore
from tgpo_ray.cluster import join, read_text
from tgpo_ray.reporting.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

TIMED = ("time/", "throughput/", "wait/")
OF_THE_PROCESS = {"sampler/gap", "recoveries"}  # measured in the process's own second iteration; counted in a process


def figures(folder: Path) -> list[dict[str, Any]]:
    """The rows without what a clock measures."""
    rows = read_metrics(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if not k.startswith(TIMED) and k not in OF_THE_PROCESS} for row in rows]


@pytest.fixture(params=["file", "s3"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/store"
        return
    store = ObjectStore()
    yield store.uri
    store.stop()


def test_a_killed_job_goes_on_to_the_last_digit(
    write_job: Callable[..., Path], start_train: Callable[..., Any], tmp_path: Path, uri: str
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

    storage = {"storage_path": uri, "every": 2}
    job = write_job(tmp_path / "killed", checkpointing=storage, **sections)
    run = start_train(job, "--resume", "auto")
    run.wait_for("3/6  reward")  # its evaluation may be the best so far, and then it is saved
    run.signal(signal.SIGKILL)
    run.wait()
    again = start_train(job, "--resume", "auto")
    assert again.wait() == 0, again.text()
    assert re.search(r"resumed at iteration [2-5] of 6", again.text()) and again.lines()[-1].startswith("done: ")
    rows = tmp_path / "rows" / "metrics.jsonl"
    rows.parent.mkdir()
    rows.write_text(read_text(join(uri, "job", "metrics.jsonl")))
    assert figures(rows.parent) == figures(alone.parent / "runs/job")


def test_a_run_outlives_evaluations_that_raise(
    write_job: Callable[..., Path], start_train: Callable[..., Any], tmp_path: Path
) -> None:
    """Every reward of the held-out set is NaN, which no episode may have. The runners go on to train."""
    held_out = {"id": "nan_env:tests/Nan-v0", "kwargs": {"first_bad": 0, "digits": [1, 1]}}
    job = write_job(tmp_path / "job", evaluation={"every": 1, "envs": [held_out], "max_problems": 3})
    run = start_train(job)
    assert run.wait() == 0, run.text()
    assert run.text().count("WARNING: the evaluation of iteration ") == 3  # before the first and after both
    rows = read_metrics(job.parent / "runs/job/metrics.jsonl")
    assert [row["evaluation/failures"] for row in rows] == [1.0, 2.0, 3.0]
    assert all("reward" in row for row in rows[1:])
