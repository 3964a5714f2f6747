"""When the models of a Ray job compute: intervals of every actor's process, on the machine's one monotonic clock.

    with ActorClock() as clock:
        ray.init("local", runtime_env=clock.runtime_env)
        ...
        busy = clock.busy(start, end)

Timed are vLLM's steps (runners and teachers) and the learners' forward passes, backward passes and optimizer steps.
The package runs unchanged: Ray's setup hook wraps these calls when a worker imports their module. This is for one
machine and for CPUs: on a GPU a call returns before its kernels end.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import wrapt

ROOT = Path(__file__).resolve().parents[1]
FOLDER = "TGPO_BENCHMARK_CLOCK"  # environment variable of the workers
MODEL_CALLS = {
    "vllm.v1.engine.llm_engine": ["LLMEngine.step"],
    "tgpo_ray.learners.learner": ["PolicyModule.forward"],
    "tgpo_ray.learners.strategies": ["TorchStrategy.backward", "TorchStrategy.step"],
}
# The class of the actor names the stage.
STAGES = {"EnvRunner": "env_runners", "Teacher": "teachers", "RayTrainWorker": "learners"}

Interval = tuple[float, float]


def install() -> None:
    """Wrap the models' calls as soon as this process imports them. Ray calls this in every worker process."""
    for module, calls in MODEL_CALLS.items():
        for call in calls:
            wrapt.when_imported(module)(partial(_wrap, call))


def _wrap(call: str, module: Any) -> None:
    wrapt.wrap_function_wrapper(module, call, _timed)


def _timed(wrapped: Callable[..., Any], instance: object, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    start = time.monotonic()
    try:
        return wrapped(*args, **kwargs)
    finally:
        _write(start, time.monotonic())


def _write(start: float, end: float) -> None:
    global _file
    if _file is None:
        # a line at a time: the actors are killed, so nothing would flush a buffer
        _file = Path(os.environ[FOLDER], str(os.getpid())).open("a", buffering=1)  # noqa: SIM115 (open to the end)
        _file.write(f"{_stage()}\n")
    _file.write(f"{start:.6f} {end:.6f}\n")


_file: Any = None


def _stage() -> str:
    """Returns the stage of this process, by the title that Ray gives it: `ray::EnvRunner.sample`."""
    title = Path("/proc/self/cmdline").read_text().split("\0")[0]
    return STAGES[title.removeprefix("ray::").split(".")[0].split("(")[0]]


class Busy(NamedTuple):
    """What the models did in one stretch of time."""

    wall_s: float
    stages: dict[str, float]  # seconds in which a model of the stage computed, by stage
    any_s: float  # seconds in which any model computed
    first_end: float | None  # when the first call ended

    def report(self, num_cores: int, num_steps: int = 1) -> dict[str, Any]:
        """Returns the figures of the stretch, seconds for each of its steps.

        `bound_s` is what the cores and the slowest stage allow.
        """
        slowest = max(self.stages.values(), default=0.0)
        bound = max(slowest, sum(self.stages.values()) / num_cores)
        return {
            "busy_s": {name: round(seconds / num_steps, 3) for name, seconds in self.stages.items()},
            "idle_share": {name: round(1 - seconds / self.wall_s, 3) for name, seconds in self.stages.items()},
            "outside_models_s": round((self.wall_s - self.any_s) / num_steps, 3),
            "outside_models_share": round(1 - self.any_s / self.wall_s, 4),
            "slowest_stage_over_wall": round(slowest / self.wall_s, 3),
            "bound_s": round(bound / num_steps, 3),
            "bound_over_wall": round(bound / self.wall_s, 3),
        }


class ActorClock:
    """A folder into which the workers write their intervals."""

    def __enter__(self) -> ActorClock:
        self._folder = tempfile.TemporaryDirectory()
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    @property
    def runtime_env(self) -> dict[str, Any]:
        """The `runtime_env` for `ray.init`."""
        path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        return {
            "worker_process_setup_hook": "benchmarks.actor_clock.install",
            "env_vars": {FOLDER: self._folder.name, "PYTHONPATH": path},
        }

    def busy(self, start: float, end: float) -> Busy:
        """Returns what the models did between two values of `time.monotonic`."""
        intervals = self._intervals(start, end)
        everything = [interval for of_stage in intervals.values() for interval in of_stage]
        stages = {name: length_of_union(of_stage) for name, of_stage in sorted(intervals.items())}
        first = min((stop for _, stop in everything), default=None)
        return Busy(end - start, stages, length_of_union(everything), first)

    def _intervals(self, start: float, end: float) -> Mapping[str, list[Interval]]:
        found: dict[str, list[Interval]] = {}
        for path in Path(self._folder.name).iterdir():
            stage, *lines = path.read_text().splitlines()
            for line in lines:
                first, last = map(float, line.split())
                if first < end and last > start:
                    found.setdefault(stage, []).append((max(first, start), min(last, end)))
        return found


def length_of_union(intervals: Iterable[Interval]) -> float:
    """Returns the length of what the intervals cover together."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(intervals):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total
