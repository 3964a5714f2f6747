"""Benchmark e: new weights on their way from a learner to an engine, and how long a run waits for them, as JSON.

    python benchmarks/weight_sync.py                     # a model of 57 M parameters in float32
    python benchmarks/weight_sync.py --layers 2 --iterations 0     # a smaller one, without the GRPO run

A learner and a vLLM engine in an actor each. The contestants take turns within a round:

ours        numpy buckets through Ray's object store (weight_sync.backend: object_store)
torch       the same weights as torch tensors through the object store
disk        save_pretrained into a folder, and vLLM's reload from it
in_memory   the engine's reload alone, of arrays in its own memory: what each of the others pays too

Transport is a contestant's time minus that of `in_memory`, in medians. After each round the engine's log-probs of one
sequence are compared with the learner's weights: all contestants must give the same.

Then a GRPO run of the same model: `time/sync_s` over `time/iteration_s`, the share of a step in which all wait.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

os.environ.setdefault("DS_ACCELERATOR", "cpu")  # a library imports DeepSpeed, which would write a line before the JSON

import numpy as np
import ray

from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.learners import Learner, learner_spec
from tgpo_ray.models import (
    Engine,
    EngineSpec,
    character_tokenizer,
    engine_environment,
    fill_buckets,
    split_prompt_logprobs,
    write_model,
)

GOALS = {"transport_over_reload": 0.10, "stall_of_a_step": 0.02}
SYMBOLS = [*"0123456789+-*=,;", "\\boxed{", "}"]
ENVIRONMENT = {"env_vars": engine_environment(gpu=False)}


class Sender:
    """A learner, which changes its weights a little before each send."""

    def __init__(self, config: AlgorithmConfig) -> None:
        self.learner = Learner(learner_spec(config))

    def change(self, seed: int) -> None:
        import torch

        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for _, weight in self.learner._strategy.named_weights():
                weight.add_(torch.randn(weight.shape, generator=generator) * 1e-3)

    def num_bytes(self) -> int:
        return sum(weight.nbytes for _, weight in self.learner.named_weights())

    def buckets(self) -> list[Any]:
        return self.learner.weight_buckets()

    def tensors(self) -> list[Any]:
        return [ray.put(list(self.learner.named_weights()))]

    def save(self, folder: str) -> None:
        self.learner._model.save_pretrained(folder, state_dict=dict(self.learner.named_weights()))


class Receiver:
    """A vLLM engine."""

    def __init__(self, spec: EngineSpec) -> None:
        self.engine = Engine(spec)
        self.local: list[Any] = []

    def keep(self, buckets: list[Any]) -> None:
        self.local = [[(name, dtype, array.copy()) for name, dtype, array in ray.get(ref)] for ref in buckets]

    def load_local(self) -> None:
        self.engine.load_weights(self.local)

    def load_buckets(self, buckets: list[Any]) -> None:
        self.engine.load_weights(buckets)

    def load_tensors(self, refs: list[Any]) -> None:
        self.engine.load_weights([bucket for ref in refs for bucket in fill_buckets(ray.get(ref))])

    def load_folder(self, folder: str) -> None:
        workers = self.engine._engine.collective_rpc
        workers("reload_weights", kwargs={"weights_path": folder})
        workers("tgpo_repack_heads")
        self.engine._engine.reset_prefix_cache()

    def logprobs(self) -> np.ndarray:
        request = self.engine.prompt_logprobs(np.arange(2, 18), top_k=1)
        return split_prompt_logprobs(self.engine.finish()[request], 1)[0]


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def contestants(sender: Any, receiver: Any, folder: Path) -> dict[str, Callable[[], object]]:
    def disk() -> None:
        ray.get(sender.save.remote(str(folder)))
        ray.get(receiver.load_folder.remote(str(folder)))

    return {
        "ours": lambda: ray.get(receiver.load_buckets.remote(ray.get(sender.buckets.remote()))),
        "torch": lambda: ray.get(receiver.load_tensors.remote(ray.get(sender.tensors.remote()))),
        "disk": disk,
        "in_memory": lambda: ray.get(receiver.load_local.remote()),
    }


def transport(config: AlgorithmConfig, spec: EngineSpec, folder: Path, rounds: int) -> dict[str, Any]:
    sender: Any = ray.remote(Sender).options(num_cpus=1).remote(config)
    receiver: Any = ray.remote(Receiver).options(num_cpus=1, runtime_env=ENVIRONMENT).remote(spec)
    shutil.copytree(config.model.path, folder)  # vLLM reads the configuration beside the weights
    works = contestants(sender, receiver, folder)
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for number in range(rounds + 1):
        ray.get(sender.change.remote(number))
        ray.get(receiver.keep.remote(ray.get(sender.buckets.remote())))
        found = {}
        for name, work in works.items():
            seconds[name].append(timed(work))
            found[name] = ray.get(receiver.logprobs.remote())
        for name, logprobs in found.items():
            assert np.abs(logprobs - found["in_memory"]).max() < 1e-5, f"{name} has loaded other weights"
    size: Any = ray.get(sender.num_bytes.remote())
    ray.kill(sender)
    ray.kill(receiver)
    medians = {name: statistics.median(values[1:]) for name, values in seconds.items()}  # the first warms up
    return {"megabytes": round(size / 1e6, 1)} | figures(medians, seconds, size)


def figures(medians: dict[str, float], seconds: dict[str, list[float]], size: int) -> dict[str, Any]:
    reload = medians["in_memory"]
    found: dict[str, Any] = {}
    for name, median in medians.items():
        found[name] = {"seconds": round(median, 4), "least": round(min(seconds[name]), 4)}
        if name != "in_memory":
            moved = max(median - reload, 1e-4)  # below the noise of a reload
            found[name] |= {
                "transport_s": round(moved, 4),
                "transport_gb_per_s": round(size / moved / 1e9, 2),
                "transport_over_reload": round(moved / reload, 3),
            }
    return found


def stall(config: AlgorithmConfig, iterations: int) -> dict[str, Any]:
    algorithm = config.build_algo()
    try:
        metrics = [algorithm.train() for _ in range(iterations + 1)][1:]  # the first warms up
    finally:
        algorithm.stop()
    step = statistics.median(it["time/iteration_s"] for it in metrics)
    sync = statistics.median(it["time/sync_s"] for it in metrics)
    return {"step_s": round(step, 2), "sync_s": round(sync, 3), "share": round(sync / step, 4)}


def make_config(folder: Path, layers: int) -> tuple[AlgorithmConfig, EngineSpec]:
    shape = {"hidden_size": 768, "intermediate_size": 2048, "num_attention_heads": 12, "num_key_value_heads": 4}
    model = write_model(
        folder / "model", "qwen2", character_tokenizer(SYMBOLS), num_hidden_layers=layers,
        max_position_embeddings=128, tie_word_embeddings=True, **shape,
    )  # fmt: skip
    config = AlgorithmConfig.from_dict(
        {
            "algorithm": "GRPO",
            "name": "run",
            "model": {"path": str(model)},
            "env": {"id": "tgpo/Arithmetic-v0", "kwargs": {"digits": [1, 1]}},
            "env_runners": {"max_prompt_tokens": 16, "max_response_tokens": 64, "kv_cache_memory": "256MiB"},
            "training": {"num_iterations": 9, "groups_per_iteration": 16, "group_size": 8, "updates_per_iteration": 2},
            "checkpointing": {"storage_path": str(folder / "runs")},
            "reporting": {"progress": False},
        }
    ).resolved(gpus=False)
    spec = EngineSpec(str(model), "float32", max_model_len=80, kv_cache_memory=2**26)
    return config, spec


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=9)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--iterations", type=int, default=3, help="of the GRPO run, after one that does not count")
    options = parser.parse_args()
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        config, spec = make_config(Path(folder), options.layers)
        report: dict[str, Any] = {
            "settings": vars(options),
            "machine": {"cpus": os.cpu_count(), "processor": platform.processor() or platform.machine()},
            "goals": GOALS,
            "one_sync": transport(config, spec, Path(folder, "saved"), options.rounds),
        }
        if options.iterations:
            report["stall"] = stall(config, options.iterations)
    print(json.dumps(report, indent=2))
    ray.shutdown()


if __name__ == "__main__":
    main()
