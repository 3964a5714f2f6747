"""This package's TGPO as a contestant of `whole_step.py`: real Ray, vLLM and learners, with one thread an actor."""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray

from benchmarks.actor_clock import ActorClock
from benchmarks.contestant import keep_output_for_replies, reply, turns
from benchmarks.step_shapes import (
    ENV_ID,
    GROUP_SIZE,
    LEARNING_RATE,
    RESPONSE,
    SHAPES,
    WEIGHT,
    Shape,
    env_arguments,
)
from tgpo_ray.config import AlgorithmConfig


def configuration(shape: Shape, folder: Path, overrides: list[str]) -> Any:
    """Returns the run's configuration. `overrides` are as on the command line of `tgpo_ray.train`."""
    data: dict[str, Any] = {
        "algorithm": "TGPO",
        "model": {"path": str(folder / "policy")},
        "teacher": {"path": str(folder / "teacher"), "num_cpus_per_replica": 0.5, "kv_cache_memory": "256MiB"},
        "env": {"id": ENV_ID, "kwargs": env_arguments(folder)},
        "env_runners": {
            "max_prompt_tokens": 256,
            "max_response_tokens": RESPONSE,
            "num_cpus_per_env_runner": 0.5,
            "kv_cache_memory": "256MiB",
        },
        "learners": {"num_cpus_per_learner": 0.5, "layout": shape.layout},
        "training": {
            "groups_per_iteration": shape.num_groups,
            "group_size": GROUP_SIZE,
            "updates_per_iteration": 1,
            "lr": LEARNING_RATE,
            "entropy_weight": 0.0,  # as TRL
        },
        "guidance": {"weight": WEIGHT},
        "checkpointing": {"storage_path": str(folder / "runs")},
    }
    return AlgorithmConfig.from_dict(data, overrides)


def take_turn(algorithm: Any, shape: Shape, clock: ActorClock, num_steps: int) -> dict[str, Any]:
    """Returns the figures of `num_steps` iterations, after one that does not count: it may find work done ahead."""
    algorithm.train()
    start = time.monotonic()
    rows = [algorithm.train() for _ in range(num_steps)]
    end = time.monotonic()
    for row in rows:
        assert row["tokens/response"] == row["tokens/trained"] == shape.num_tokens, row
        assert row["episode/prompt_length"] == shape.prompt, row
        assert row["guidance/coverage"] == 1.0, row
    waits = {
        name: sum(row[name] for row in rows) / num_steps for name in rows[0] if name.startswith(("wait/", "time/"))
    }
    figures = {"seconds": (end - start) / num_steps, "guidance_nll": rows[-1]["guidance/nll"]}
    return {**figures, **clock.busy(start, end).report(os.cpu_count() or 1, num_steps), **waits}


def main() -> None:
    shape, folder, overrides = SHAPES[sys.argv[1]], Path(sys.argv[2]), sys.argv[3:]
    keep_output_for_replies()
    with ActorClock() as clock:
        settings: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
        ray.init("local", num_cpus=8, logging_level=logging.ERROR, runtime_env=clock.runtime_env, **settings)
        try:
            algorithm = configuration(shape, folder, overrides).build_algo()
            try:
                reply(take_turn(algorithm, shape, clock, 1))
                for num_steps in turns():
                    reply(take_turn(algorithm, shape, clock, num_steps))
            finally:
                algorithm.stop()
        finally:
            ray.shutdown()


if __name__ == "__main__":
    main()
