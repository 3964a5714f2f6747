"""Small TGPO runs in which one process is killed at one stage: the child process of benchmarks/faults.py.

    python benchmarks/fault_cells.py FOLDER OUT.jsonl learner:update mailbox:sync ...

The cells share one Ray cluster, one runner and one teacher; each has learners of its own. `driver` and `raylet` end or
leave the cluster, so such a cell comes alone. A line of OUT.jsonl has the cell and what its run came to.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import psutil
import ray

from tgpo_ray.algorithms import TGPO
from tgpo_ray.cluster import connect, root_cause
from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.driver import fit
from tgpo_ray.env_runners import SamplingSession
from tgpo_ray.learners import LearnerGroup
from tgpo_ray.teachers import TeacherGroup
from tgpo_ray.train import quiet_other_packages

AT = 3  # whole iterations before the one of the kill; the last checkpoint is of iteration 2
COMMANDS = {"update": "step", "sync": "weight_buckets", "checkpoint": "save"}
PROCESSES = {"controller": "ray::TrainController", "mailbox": "ray::Mailbox", "queue": "ray::TaskQueue",
             "verifier": "verifiers/worker.py"}  # fmt: skip
"""What stands in the command line of a process that has no handle here."""


@dataclass
class Fault:
    """One process to kill at one stage of iteration AT + 1, as soon as that stage has begun."""

    kind: str
    stage: str
    kill_node: Callable[[], None] | None = None
    algorithm: Any = None
    done: bool = False
    pids: dict[str, int] = field(default_factory=dict)
    in_evaluation: bool = False

    def begin(self, algorithm: Any) -> None:
        """Note the processes of actors that answer no call once they work."""
        if self.algorithm is None:
            self.algorithm = algorithm
            teacher = next(iter(algorithm.teachers.values())).handles[0]
            self.pids = {"runner": _pid(algorithm.env_runners.runners[0]), "teacher": _pid(teacher)}

    def at(self, stage: str) -> None:
        """Kill, if this is the stage."""
        finished = AT + 1 if stage in ("checkpoint", "evaluation") else AT
        if self.done or self.algorithm is None or (stage, self.algorithm.iteration) != (self.stage, finished):
            return
        self.done = True
        if self.kind == "raylet":
            assert self.kill_node is not None
            self.kill_node()
        elif self.kind != "nothing":
            os.kill(self._victim(), signal.SIGKILL)

    def _victim(self) -> int:
        if self.kind == "driver":
            return os.getpid()
        if self.kind == "learner":
            return self.algorithm.learners.processes()[0][1]
        if self.kind in self.pids:
            return self.pids[self.kind]
        found = [pid for pid, line in _processes() if PROCESSES[self.kind] in line]
        if not found:
            raise RuntimeError(f"no process of kind {self.kind} is running")
        return found[-1]

    @contextmanager
    def armed(self) -> Iterator[None]:
        """Patch the stages of every algorithm in this process, so that each says when it has begun."""
        send, read, submit = LearnerGroup._send, SamplingSession._read, TeacherGroup.send
        train, evaluate = TGPO.train, TGPO.evaluate

        def sending(group: Any, name: str, payloads: Any) -> Any:
            sent = send(group, name, payloads)
            for stage, command in COMMANDS.items():
                if command == name:
                    self.at(stage)
            return sent

        def reading(session: Any, stream: Any) -> Any:
            group = read(session, stream)
            self.at("evaluation" if self.in_evaluation else "sampling")
            return group

        def submitting(pool: Any, *arguments: Any) -> None:
            submit(pool, *arguments)
            self.at("scoring")

        def training(algorithm: Any) -> Any:
            self.begin(algorithm)
            return train(algorithm)

        def evaluating(algorithm: Any) -> Any:
            self.in_evaluation = True
            try:
                return evaluate(algorithm)
            finally:
                self.in_evaluation = False

        with (
            patch.object(LearnerGroup, "_send", sending),
            patch.object(SamplingSession, "_read", reading),
            patch.object(TeacherGroup, "send", submitting),
            patch.object(TGPO, "train", training),
            patch.object(TGPO, "evaluate", evaluating),
        ):
            yield


def _pid(actor: Any) -> int:
    return ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))


def _processes() -> list[tuple[int, str]]:
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            found.append((process.pid, " ".join(process.cmdline())))
        except psutil.Error:
            continue
    return found


def run_cell(config: AlgorithmConfig, fault: Fault, **groups: Any) -> dict[str, Any]:
    """What the run of one cell came to: its error, or none."""
    start = time.monotonic()
    report: dict[str, Any] = {"kind": fault.kind, "stage": fault.stage, "error": None}
    try:
        with fault.armed():
            fit(config, **groups)
    except Exception as error:
        report["error"] = f"{type(error).__name__}: {root_cause(error)}"
    return report | {"killed": fault.done, "seconds": round(time.monotonic() - start, 1)}


def in_one_cluster(folder: Path, cells: list[tuple[str, str]], write: Callable[[dict[str, Any]], None]) -> None:
    """Run the cells one after the other, with one runner and one teacher that survive what is done to them."""
    from tgpo_ray.env_runners import build_env_runners
    from tgpo_ray.teachers import build_teachers

    config = AlgorithmConfig.from_yaml(folder / "job.yaml")
    connect(config.ray)
    resolved: Any = config.resolved(gpus=False)
    env_runners = build_env_runners(resolved)
    teachers = build_teachers(resolved, resolved.teachers, unmapped=resolved.guidance.unmapped)
    for kind, stage in cells:
        write(run_cell(_named(folder, kind, stage), Fault(kind, stage), env_runners=env_runners, teachers=teachers))
    for group in (env_runners, *teachers.values()):
        group.stop()
    ray.shutdown()


def with_a_second_node(folder: Path, stage: str, write: Callable[[dict[str, Any]], None]) -> None:
    """Run on a head without CPUs and a node that has every runner, teacher and learner, and that is lost."""
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    cluster.add_node(num_cpus=0, include_dashboard=False)
    lost = cluster.add_node(num_cpus=4)
    ray.init(address=cluster.address, log_to_driver=False)

    def kill_node() -> None:
        cluster.add_node(num_cpus=4)  # where everything can start again
        lost.kill_raylet()

    write(run_cell(_named(folder, "raylet", stage), Fault("raylet", stage, kill_node)))
    ray.shutdown()
    cluster.shutdown()


def _named(folder: Path, kind: str, stage: str) -> AlgorithmConfig:
    return AlgorithmConfig.from_yaml(folder / "job.yaml", [f"name={kind}-{stage}"])


def main() -> None:
    quiet_other_packages()
    folder, out = Path(sys.argv[1]), Path(sys.argv[2])
    cells = [(word.split(":")[0], word.split(":")[1]) for word in sys.argv[3:]]

    def write(report: dict[str, Any]) -> None:
        with out.open("a") as file:
            file.write(json.dumps(report) + "\n")

    kind, stage = cells[0]
    if kind == "raylet":
        with_a_second_node(folder, stage, write)
    elif kind == "driver":
        write(run_cell(_named(folder, kind, stage), Fault(kind, stage)))
    else:
        in_one_cluster(folder, cells, write)


if __name__ == "__main__":
    main()
