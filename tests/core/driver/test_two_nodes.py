"""Actors on several nodes: groups, guidance, weights and gradients cross from one to another."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import yaml

pytestmark = [pytest.mark.long, pytest.mark.timeout(400)]
SCRIPT = Path(__file__).with_name("two_nodes.py")


@pytest.fixture
def run(clean_environment: dict[str, str], make_config: Any, tmp_path: Path) -> Iterator[Any]:
    """run(1, 3, **sections) -> what two_nodes.py reports of TGPO on nodes of 1 and 3 CPUs."""
    # a short path, as Ray's sockets lie below it; in /tmp/ray it would stand as the cluster that others join
    with tempfile.TemporaryDirectory(prefix="tn", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:

        def report(*words: int | str, variables: dict[str, str] | None = None, **sections: Any) -> dict[str, Any]:
            path = tmp_path / "run.yaml"
            path.write_text(yaml.safe_dump(make_config("TGPO", **sections).to_dict()))
            command = [sys.executable, str(SCRIPT), str(path), *map(str, words)]
            environment = clean_environment | {"RAY_TMPDIR": ray_folder} | (variables or {})
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=360)
            assert done.returncode == 0, done.stderr[-3000:]
            found = json.loads(done.stdout.splitlines()[-1])
            assert not found["connected_again"]
            return found

        yield report


def test_a_run_spreads_over_two_nodes(run: Any):
    learners = {"num_learners": 2, "num_cpus_per_learner": 1.0, "token_budget": 512}
    found = run(1, 3, learners=learners, training={"importance": "truncated"})
    assert len({*found["env_runners"], *found["teachers"], *found["learners"]}) == 2
    assert found["blind"] == []  # both nodes are on this machine and see its folders
    for metrics in found["metrics"]:
        assert metrics["policy/sampler_gap"] < 1e-4 and metrics["guidance/coverage"] == 1.0


def test_actors_that_fit_the_cluster_but_no_node_end_the_run_with_a_reason(run: Any):
    """4 CPUs in all for 1.5 + 1 + 1.5 on nodes of 2: whichever two are placed, the third waits for ever."""
    found = run(2, 2, learners={"num_cpus_per_learner": 1.5, "token_budget": 512},
                env_runners={"num_cpus_per_env_runner": 1.5}, teacher={"num_cpus_per_replica": 1.0},
                fault_tolerance={"start_timeout_s": 60.0})  # fmt: skip
    assert "did not start within 60 s (fault_tolerance.start_timeout_s)" in found["error"]


def test_learners_whose_node_is_lost_for_good_end_the_run_with_a_reason(run: Any):
    """3 CPUs for the learner, which only the second node has. Ray Train waits 10 s for them, three times."""
    found = run(2, 3, "lose", learners={"num_cpus_per_learner": 3.0, "token_budget": 512},
                fault_tolerance={"start_timeout_s": 60.0, "max_learner_restarts": 1},
                variables={"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10"})  # fmt: skip
    assert found["learners"] == [found["lost"]] and len(found["metrics"]) == 1
    assert found["error"].startswith("LearnerError: The worker group startup timed out")
