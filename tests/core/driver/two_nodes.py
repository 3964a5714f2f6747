"""A process of its own for test_two_nodes.py: Ray with two nodes on this machine, and a run over both.

    python tests/core/driver/two_nodes.py run.yaml CPUS_OF_THE_HEAD CPUS_OF_THE_OTHER [lose]

Prints JSON: the nodes of each kind of actor and the metrics of two iterations, or why the run ended. With `lose` the
second node is lost between the two.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

import ray
from ray.cluster_utils import Cluster

from tgpo_ray.cluster import nodes_without
from tgpo_ray.config import AlgorithmConfig


def main(path: str, head_cpus: str, other_cpus: str, lose: str = "") -> None:
    cluster = Cluster()
    cluster.add_node(num_cpus=int(head_cpus), include_dashboard=False)
    other = cluster.add_node(num_cpus=int(other_cpus))
    ray.init(address=cluster.address, log_to_driver=False)
    report: dict[str, Any] = {}
    algorithm = None
    try:
        algorithm = AlgorithmConfig.from_yaml(path).build_algo()
        report["env_runners"] = [node_of(runner) for runner in algorithm.env_runners.runners]
        report["teachers"] = [node_of(teacher) for teacher in algorithm.teachers["default"].handles]
        report["learners"] = [node for node, _ in algorithm.learners.processes()]
        report["lost"] = other.node_id
        report["blind"] = nodes_without(str(Path(path).parent), num_cpus=1.0, num_gpus=0.0)
        report["metrics"] = [algorithm.train()]
        if lose:
            cluster.remove_node(other, allow_graceful=False)
        report["metrics"].append(algorithm.train())
    except RuntimeError as error:
        report["error"] = f"{type(error).__name__}: {error}"
    finally:
        if algorithm is not None:
            algorithm.stop()
    ray.shutdown()
    cluster.shutdown()
    time.sleep(5.0)  # a thread of a group that was never placed would start Ray again in this time
    report["connected_again"] = ray.is_initialized()
    print(json.dumps(report))


def node_of(actor: Any) -> str:
    return ray.get(actor.__ray_call__.remote(lambda _: ray.get_runtime_context().get_node_id()))


if __name__ == "__main__":
    main(*sys.argv[1:])
