"""A process of its own for test_two_nodes.py: Ray with two nodes on this machine, and a run over both.

    python tests/core/two_nodes.py run.yaml CPUS_OF_THE_HEAD CPUS_OF_THE_OTHER

Prints JSON: the nodes of each kind of actor and the metrics of two iterations, or why the run could not start.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

os.environ["RAY_ENABLE_AUTO_CONNECT"] = "0"  # a thread of Ray Train's that still waits must not connect again

import ray
from ray.cluster_utils import Cluster

from tgpo_ray.config import AlgorithmConfig


def main(path: str, *cpus: str) -> None:
    cluster = Cluster()
    for count in cpus:
        cluster.add_node(num_cpus=int(count), include_dashboard=False)
    ray.init(address=cluster.address, log_to_driver=False)
    algorithm = None
    try:
        algorithm = AlgorithmConfig.from_yaml(path).build_algo()
        report: dict[str, Any] = {
            "env_runners": [node_of(runner) for runner in algorithm.env_runners._runners],
            "teachers": [node_of(teacher) for teacher in algorithm.teachers["default"].handles],
            "learners": [node for node, _ in algorithm.learners.processes()],
            "metrics": [algorithm.train() for _ in range(2)],
        }
    except RuntimeError as error:
        report = {"error": f"{type(error).__name__}: {error}"}
    finally:
        if algorithm is not None:
            algorithm.stop()
    print(json.dumps(report))
    ray.shutdown()
    cluster.shutdown()


def node_of(actor: Any) -> str:
    return ray.get(actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))


if __name__ == "__main__":
    main(*sys.argv[1:])
