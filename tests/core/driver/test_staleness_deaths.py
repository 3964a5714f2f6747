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

pytestmark = pytest.mark.long


def process_of(actor: Any) -> int:
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))


def victims(algorithm: TGPO) -> dict[int, int]:
    """The process to kill, by finished iterations. To ask before training: a runner in flight answers no other call."""
    teacher = next(iter(algorithm.teachers.values()))
    return {
        1: process_of(algorithm.env_runners.runners[0]),
        2: process_of(teacher.handles[0]),
        3: algorithm.learners.processes()[0][1],
    }


@pytest.mark.parametrize("weight_update", ["between_batches", "in_flight"])
def test_a_run_ahead_completes_when_runner_teacher_and_learner_are_killed(
    weight_update: str, ray_cluster: Any, make_config: Callable[..., Any], tmp_path: Any, monkeypatch: Any
):
    train, processes, killed = TGPO.train, {}, []

    def killing_train(self: TGPO) -> dict[str, float]:
        if not processes:
            processes.update(victims(self))
        if self.iteration in processes and self.iteration not in killed:
            killed.append(self.iteration)
            threading.Timer(0.3, os.kill, (processes[self.iteration], signal.SIGKILL)).start()
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
    # a runner that restarts between two updates of an iteration gets weights of a version of their own
    assert max(row["weights_version_lag"] for row in trained) <= 2.0
    assert trained[-1]["weights_version_lag"] <= 1.0
