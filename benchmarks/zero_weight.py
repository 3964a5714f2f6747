"""Benchmark h: an iteration of TGPO at guidance weight 0 against one of GRPO, as JSON.

    python benchmarks/zero_weight.py                # 20 pairs of iterations
    python benchmarks/zero_weight.py --pairs 40

Two runs of one configuration, on one group of runners, take turns iteration by iteration, so that what else the machine
does falls on both. The teacher of the TGPO run is never started: its weight is 0 from the first iteration on. Tiny
random models; real Ray, vLLM and learners.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import ray

from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.env_runners import build_env_runners
from tgpo_ray.models import character_tokenizer, write_model

GOAL = 1.01
SYMBOLS = [*"0123456789+-*=,;", "\\boxed{", "}"]
SHAPE = {
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20, help="iterations of each, after two that do not count")
    options = parser.parse_args()
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        with tempfile.TemporaryDirectory() as folder:
            seconds = measure(Path(folder), options.pairs)
    finally:
        ray.shutdown()
    ratios = seconds["TGPO"] / seconds["GRPO"]
    error = ratios.std(ddof=1) / np.sqrt(len(ratios))
    report = {
        "median_iteration_s": {name: round(float(np.median(times)), 4) for name, times in seconds.items()},
        "ratio": {"median": round(float(np.median(ratios)), 4), "standard_error_of_the_mean": round(float(error), 4)},
        "pairs": options.pairs,
        "goal": GOAL,
    }
    print(json.dumps(report, indent=2))


def measure(folder: Path, pairs: int) -> dict[str, np.ndarray]:
    """Seconds of each counted iteration, by algorithm."""
    tokenizer = character_tokenizer(SYMBOLS)
    size = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
    policy = write_model(folder / "policy", "qwen2", tokenizer, **size, **SHAPE)
    teacher = write_model(folder / "teacher", "qwen2", tokenizer, seed=1, **size, **SHAPE)
    configs = {name: config_of(name, folder, policy, teacher) for name in ("GRPO", "TGPO")}
    runners = build_env_runners(configs["GRPO"].resolved(gpus=False))
    runs: dict[str, Any] = {}
    try:
        for name, config in configs.items():
            runs[name] = config.build_algo(env_runners=runners)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for pair in range(pairs + 2):
            for name in sorted(runs, reverse=pair % 2 == 1):  # who goes first changes
                start = time.perf_counter()
                runs[name].train()
                times[name].append(time.perf_counter() - start)
        return {name: np.asarray(values[2:]) for name, values in times.items()}
    finally:
        for run in runs.values():
            run.stop()
        runners.stop()


def config_of(algorithm: str, folder: Path, policy: Path, teacher: Path) -> Any:
    data: dict[str, Any] = {
        "algorithm": algorithm,
        "name": algorithm.lower(),
        "model": {"path": str(policy)},
        "env": {"id": "tgpo/Arithmetic-v0", "kwargs": {"digits": [1, 1]}},
        "env_runners": {
            "max_prompt_tokens": 16,
            "max_response_tokens": 32,
            "kv_cache_memory": "64MiB",
            "num_cpus_per_env_runner": 0.5,
        },
        "learners": {"num_cpus_per_learner": 0.5, "token_budget": 2048},
        # a rate at which nothing moves: response lengths stay, and with them the work
        "training": {"groups_per_iteration": 16, "group_size": 8, "updates_per_iteration": 1, "lr": 1e-12},
        "checkpointing": {"storage_path": str(folder / "runs")},
    }
    if algorithm == "TGPO":
        data |= {"teacher": {"path": str(teacher)}, "guidance": {"weight": 0.0}}
    return AlgorithmConfig.from_dict(data).check()


if __name__ == "__main__":
    main()
