"""Processes killed in the middle of an iteration, in a run that samples one batch ahead of its learners."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest
import ray

from tgpo_ray.algorithms import TGPO

pytestmark = pytest.mark.slow


def process_of(actor: Any) -> int:
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))


VICTIMS: dict[int, Callable[[TGPO], int]] = {  # the process to kill, by finished iterations
    1: lambda algorithm: process_of(algorithm.env_runners.runners[0]),
    2: lambda algorithm: process_of(next(iter(algorithm.teachers.values())).handles[0]),
    3: lambda algorithm: algorithm.learners.processes()[0][1],
}


@pytest.mark.parametrize("weight_update", ["between_batches", "in_flight"])
def test_a_run_ahead_completes_when_runner_teacher_and_learner_are_killed(
    weight_update: str, ray_cluster: Any, make_config: Callable[..., Any], tmp_path: Any, monkeypatch: Any
):
    train, killed = TGPO.train, []

    def killing_train(self: TGPO) -> dict[str, float]:
        if (victim := VICTIMS.get(self.iteration)) and self.iteration not in killed:
            killed.append(self.iteration)
            process = victim(self)
            threading.Timer(0.3, os.kill, (process, signal.SIGKILL)).start()
        return train(self)

    monkeypatch.setattr(TGPO, "train", killing_train)
    config = make_config(
        "TGPO",
        training={"num_iterations": 6, "max_staleness": 1, "groups_per_iteration": 16, "updates_per_iteration": 2},
        env_runners={"weight_update": weight_update},
        checkpointing={"storage_path": str(tmp_path / "runs"), "every": 1},
    )
    result = config.fit()
    assert killed == [1, 2, 3] and result.error is None
    rows = [json.loads(line) for line in (tmp_path / "runs" / "run" / "metrics.jsonl").read_text().splitlines()]
    trained = [row for row in rows if "loss/total" in row or "loss/policy" in row]
    assert [row["iteration"] for row in trained] == [1, 2, 3, 4, 5, 6]
    assert all(row["guidance/coverage"] > 0.9 for row in trained)
    assert max(row["weights_version_lag"] for row in trained) <= 1.0
