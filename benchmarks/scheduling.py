"""Benchmark f: how near the runners' queue comes to the ideal list schedule, with simulated runners, as JSON.

    python benchmarks/scheduling.py                          # 1, 4, 16, 64 and 256 runners, about two minutes
    python benchmarks/scheduling.py --runners 64 --groups-per-runner 16

The driver's code is real: EnvRunnerGroup, its session, the TaskQueue, and a stream of groups from every runner. The
runners alone are simulated. Each has room for two groups of 8 at a time and sleeps until the longest response of a
group is written. Lengths are lognormal (median 330, sigma 0.8, cut at 2,048), and a runner writes every response at the
same speed. The speed follows from `--seconds`, the length of the ideal schedule: it must be so long that the cores keep
up with the messages of all runners. Runners are threads of four processes, because 256 processes do not fit into the
memory of a small machine. Each is called and streams as an actor of its own would.

The ideal: groups in the order of the queue, each to the first free place of any runner, at no cost.
"""

from __future__ import annotations

import argparse
import heapq
import logging
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import ray

from benchmarks.driver_profile import DriverProfile
from benchmarks.reports import print_report
from tgpo_ray.env_runners import EnvRunnerGroup, EnvRunnerSpec, Finished, TaskSource
from tgpo_ray.episode import EpisodeInfo, Task
from tgpo_ray.models import EngineSpec, Sampling

GROUP_SIZE, ROOM, PROMPT = 8, 2, 200
MEDIAN, SIGMA, CAP = 330, 0.8, 2048
NUM_HOSTS = 4  # processes with simulated runners
GOALS = {64: 0.95, 256: 0.9}  # share of the ideal, up to so many runners
GOAL_DRIVER_US = 250


def lengths_of(task: Task) -> np.ndarray:
    """Returns (G,) response lengths, which follow from the task."""
    drawn = np.random.default_rng(task.seed).lognormal(np.log(MEDIAN), SIGMA, GROUP_SIZE)
    return np.minimum(drawn, CAP).astype(int)


class Host:
    """Actor with simulated runners. Each call of `sample` runs in a thread of its own."""

    def __init__(self, seconds_per_token: float) -> None:
        self._seconds_per_token = seconds_per_token

    def ready(self) -> None:
        """Returns once the process is up."""

    def sample(self, source: TaskSource, *order: object) -> Iterator[object]:
        """Yields a group and its figures for each task, as EnvRunner does."""
        open_groups: list[tuple[float, int, Task]] = []  # by the time at which they end
        is_last = False
        while open_groups or not is_last:
            if not is_last and len(open_groups) < ROOM:
                tasks, is_last = source.draw(ROOM - len(open_groups), wait=not open_groups)
                now = time.monotonic()
                for task in tasks:
                    end = now + float(lengths_of(task).max()) * self._seconds_per_token
                    heapq.heappush(open_groups, (end, task.ordinal, task))
            if open_groups:
                end, _ordinal, task = heapq.heappop(open_groups)
                time.sleep(max(0.0, end - time.monotonic()))
                yield from finished(task)


def finished(task: Task) -> Iterator[object]:
    """Yields what a runner yields for a group: tokens of all responses, and the driver's figures."""
    lengths = lengths_of(task)
    yield [np.zeros(length, np.int32) for length in lengths]
    infos = [EpisodeInfo(0.0, PROMPT, n, n, "wrong", "stop", 0) for n in lengths.tolist()]
    yield Finished(task.key, tuple(infos), 0.0)


class SimulatedGroup(EnvRunnerGroup):
    """An EnvRunnerGroup whose runners live in `hosts`."""

    def __init__(self, hosts: Sequence[Any], num_runners: int) -> None:
        self._hosts, self._num_started = hosts, 0
        spec = EnvRunnerSpec(EngineSpec("simulated", "float32", CAP, kv_cache_memory=0), (), PROMPT)
        super().__init__(spec, num_runners)

    def _start(self) -> Any:
        self._num_started += 1
        return self._hosts[self._num_started % len(self._hosts)]

    def wait_until_ready(self) -> None:
        """Returns at once, because the hosts are up."""


def ideal_seconds(tasks: Sequence[Task], num_runners: int) -> float:
    """Returns the length of the list schedule, in seconds of one token a second."""
    free = [0.0] * (num_runners * ROOM)
    for task in tasks:
        heapq.heappush(free, heapq.heappop(free) + float(lengths_of(task).max()))
    return max(free)


def measure(num_runners: int, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures of one sampling of all tasks."""
    tasks = [Task(0, i, seed=i, ordinal=i) for i in range(num_runners * options.groups_per_runner)]
    ideal = ideal_seconds(tasks, num_runners)
    seconds_per_token = options.seconds / ideal
    num_hosts = min(NUM_HOSTS, num_runners)
    threads = -(-num_runners // num_hosts) + 1
    host_class: Any = ray.remote(Host)
    hosts = [
        host_class.options(num_cpus=0, max_concurrency=threads).remote(seconds_per_token) for _ in range(num_hosts)
    ]
    ray.get([host.ready.remote() for host in hosts])
    pool = SimulatedGroup(hosts, num_runners)
    try:
        sampling = Sampling(CAP)
        list(pool.sample(tasks[: min(num_hosts, len(tasks))], GROUP_SIZE, sampling, 0))  # what Ray does once
        with DriverProfile(profiled=options.profile) as driver:
            start = time.monotonic()
            groups = list(pool.sample(tasks, GROUP_SIZE, sampling, 0))
            seconds = time.monotonic() - start
    finally:
        for host in hosts:
            ray.kill(host)
        ray.kill(pool.queue)
    check(tasks, groups)
    assert seconds > 0.99 * options.seconds, "a schedule was shorter than the ideal one"
    goal = next((share for most, share in GOALS.items() if num_runners <= most), None)
    return {
        "runners": num_runners,
        "groups": len(tasks),
        "ideal_s": options.seconds,
        "seconds": round(seconds, 2),
        "share_of_ideal": round(options.seconds / seconds, 3),
        "goal": goal,
        "driver": driver.report(len(tasks) * GROUP_SIZE),
    }


def check(tasks: Sequence[Task], groups: Sequence[Any]) -> None:
    """Every group came once, with the lengths of its own task."""
    assert sorted(group.ordinal for group in groups) == [task.ordinal for task in tasks], "a group was lost"
    for group in groups:
        assert [info.num_response_tokens for info in group.infos] == lengths_of(group.task).tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runners", type=int, nargs="+", default=[1, 4, 16, 64, 256])
    parser.add_argument("--groups-per-runner", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=20.0, help="length of the ideal schedule")
    parser.add_argument("--profile", action="store_true", help="where the driver's processor time goes")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "what": "seconds of sampling over those of the ideal list schedule",
        "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)},
        "settings": {"groups_per_runner": options.groups_per_runner, "hosts": NUM_HOSTS, "room": ROOM},
        "goal_driver_us_per_episode": GOAL_DRIVER_US,
    }
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        report["by_runners"] = [measure(number, options) for number in options.runners]
    finally:
        ray.shutdown()
    print_report(report, options.out)


if __name__ == "__main__":
    main()
