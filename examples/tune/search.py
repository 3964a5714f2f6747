"""A search of the guidance weight with Ray Tune: three values, one run each. Run it again after a kill: it goes on.

    python examples/tune/search.py                            # tiny models, made here; minutes on two CPU cores
    python examples/tune/search.py --config my_run.yaml       # a run of your own

`config.trainable()` is a trainable like any other: Tune's schedulers and search algorithms work with it. For tables
over seeds, `tgpo-ray study` does the same with one YAML file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import ray
from ray import tune

from tgpo_ray.algorithms import TGPOConfig
from tgpo_ray.cli import main as tgpo_ray
from tgpo_ray.cluster import connect
from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.train import quiet_other_packages

METRIC = "evaluation/accuracy"
TASK = {"operation": "add", "digits": [1, 1]}


def main() -> int:
    quiet_other_packages()
    options = parse_arguments()
    folder = Path(options.folder).absolute()
    config = AlgorithmConfig.from_yaml(options.config) if options.config else tiny_run(folder)
    config.checkpointing(storage_path=str(folder / "runs"))
    connect(config.ray)
    try:
        results = search(config, options.values, folder).fit()
    finally:
        ray.shutdown()
    for result in (results[index] for index in range(len(results))):
        metrics = result.metrics or {}
        print(f"{result.config}: {METRIC} {metrics.get(METRIC)} at iteration {metrics.get('iteration')}", flush=True)
    return int(results.num_errors > 0)


def search(config: AlgorithmConfig, values: list[float], folder: Path) -> tune.Tuner:
    """The search, or the rest of one that was interrupted in this folder. Its runs go on from their checkpoints."""
    trainable = config.trainable()
    if tune.Tuner.can_restore(folder / "search"):
        return tune.Tuner.restore(str(folder / "search"), trainable, resume_unfinished=True, restart_errored=True)
    return tune.Tuner(
        trainable,
        param_space={"guidance.weight": tune.grid_search(values)},
        tune_config=tune.TuneConfig(metric=METRIC, mode="max"),
        run_config=tune.RunConfig(name="search", storage_path=str(folder), verbose=0),
    )


def tiny_run(folder: Path) -> AlgorithmConfig:
    """A run of TGPO on additions, with models that are made where the folder lacks them."""
    models = folder / "models"
    if not models.is_dir():
        kwargs = ["operation=add", "digits=[1,1]"]
        tgpo_ray(["make-models", "--env", "tgpo/Arithmetic-v0", "--kwargs", *kwargs, "--to", str(models)])
    config = TGPOConfig(name="weight").environment("tgpo/Arithmetic-v0", env_config=TASK)
    config.models(path=str(models / "policy"))
    config.teachers(path=str(models / "teacher"), num_cpus_per_replica=0.5, kv_cache_memory="64MiB")
    config.env_runners(max_prompt_tokens=16, max_response_tokens=16, num_cpus_per_env_runner=0.5)
    config.env_runners(kv_cache_memory="64MiB").learners(num_cpus_per_learner=0.5, token_budget=2048)
    config.training(num_iterations=6, groups_per_iteration=8, group_size=4, updates_per_iteration=1, lr=1e-3)
    held_out = {"id": "tgpo/Arithmetic-v0", "kwargs": TASK | {"split": "test"}}
    return config.evaluation(every=2, max_problems=32, envs=[held_out]).checkpointing(every=1)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="YAML file of a run with guidance; default: a tiny one")
    parser.add_argument("--values", type=float, nargs="+", default=[0.01, 0.1, 1.0], help="weights to try")
    parser.add_argument("--folder", default="runs/search", help="models, runs and the state of the search")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
