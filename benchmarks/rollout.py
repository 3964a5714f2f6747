"""Benchmark c: rollouts through our actor against bare `LLM.generate`, as JSON.

    python benchmarks/rollout.py                      # two laws of lengths, six rounds
    python benchmarks/rollout.py --logprobs           # every sampled token with its log-probability

Tiny random models at V = 128, 8 responses to each prompt of tgpo/Arithmetic-v0. `full` has 16 prompts and responses of
64 tokens. `geometric` has 64 prompts and responses whose lengths are geometric with mean 64, cut at 512. The
contestants are actors with one thread each and take turns:

    ours          EnvRunner in an EnvRunnerGroup, with its environments and a seed for each request
    ours_unseeded the same with one generator for the whole engine
    bare          one call of vLLM's `LLM.generate` with the same prompts and the same arguments
    bare_seeded   the same with a seed for each request

Tokens a second of ours are those of the driver: from the call of `sample` to its last group. Those of the bare engine
leave Ray out.
"""

from __future__ import annotations

import argparse
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import ray

from benchmarks.bare_engine import BareEngine
from benchmarks.reports import print_report
from benchmarks.step_shapes import tokenizer_of
from benchmarks.tiny_policies import mean_length, write_policy
from tgpo_ray.cluster import actor
from tgpo_ray.env_runners import EnvRunnerGroup, EnvRunnerSpec, EnvSpec
from tgpo_ray.episode import SampledGroup, Task
from tgpo_ray.models import EngineSpec, Sampling, engine_environment

GOAL = 0.97
GROUP_SIZE, VOCABULARY = 8, 128
SHAPE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 1024,
}
ENV = EnvSpec("tgpo/Arithmetic-v0", {"operation": "multiply", "digits": [3, 1]})


class Law(NamedTuple):
    """Prompts, and the lengths of their responses."""

    num_prompts: int
    end_probability: float
    cap: int


LAWS = {"full": Law(16, 0.0, 64), "geometric": Law(64, 1 / 64, 512)}
Turn = tuple[int, float]  # tokens and seconds


def rounds_of(law: Law, folder: Path, num_rounds: int, *, logprobs: bool) -> dict[str, list[Turn]]:
    """Returns the turns of each contestant."""
    policy = write_policy(folder, "qwen3", tokenizer_of(VOCABULARY), law.end_probability, **SHAPE)
    engine = EngineSpec(str(policy), "float32", 32 + law.cap, kv_cache_memory=256 * 2**20)
    sampling = Sampling(law.cap, logprobs=logprobs)
    specs = {
        "ours": EnvRunnerSpec(engine, (ENV,), 32, frozen=True, seed_by="request"),
        "ours_unseeded": EnvRunnerSpec(engine, (ENV,), 32, frozen=True, seed_by="runner"),
    }
    groups = {name: EnvRunnerGroup(spec, num_cpus=0.5) for name, spec in specs.items()}
    bare = actor(BareEngine, engine, num_cpus=0.5, runtime_env={"env_vars": engine_environment(gpu=False)})
    try:
        prompts = [prompt_of(group) for group in sampled(groups["ours"], law, sampling, seed=0)]
        contestants: dict[str, Callable[[int], Turn]] = {
            name: lambda seed, group=group: ours(group, law, sampling, seed) for name, group in groups.items()
        }
        contestants |= {
            name: lambda seed, seeded=seeded: timed_bare(bare, prompts, sampling, law, seed if seeded else None)
            for name, seeded in (("bare", False), ("bare_seeded", True))
        }
        turns: dict[str, list[Turn]] = {name: [] for name in contestants}
        for number in range(num_rounds + 1):
            for name, run in contestants.items():
                turn = run(number)
                if number:  # the first round warms up
                    turns[name].append(turn)
        return turns
    finally:
        for group in groups.values():
            group.stop()
        ray.kill(bare)


def sampled(group: EnvRunnerGroup, law: Law, sampling: Sampling, seed: int) -> list[SampledGroup]:
    """Returns the groups of the same problems for every seed."""
    tasks = [Task(0, index, seed=index, ordinal=index) for index in range(law.num_prompts)]
    groups = list(group.sample(tasks, GROUP_SIZE, sampling, seed))
    return sorted(groups, key=lambda group: group.ordinal)


def prompt_of(group: SampledGroup) -> list[int]:
    episodes: Any = ray.get(group.ref)
    return episodes.episodes[0].prompt_ids.tolist()


def ours(group: EnvRunnerGroup, law: Law, sampling: Sampling, seed: int) -> Turn:
    start = time.perf_counter()
    groups = sampled(group, law, sampling, seed)
    seconds = time.perf_counter() - start
    lengths = [[info.num_response_tokens for info in group.infos] for group in groups]
    return checked(lengths, law), seconds


def timed_bare(bare: Any, prompts: list[list[int]], sampling: Sampling, law: Law, seed: int | None) -> Turn:
    lengths, seconds = ray.get(bare.timed.remote(prompts, sampling, GROUP_SIZE, seed))
    return checked(lengths, law), seconds


def checked(lengths: list[list[int]], law: Law) -> int:
    """Returns the number of tokens; AssertionError where a response is missing or the lengths are not of the law."""
    assert [len(of_group) for of_group in lengths] == [GROUP_SIZE] * law.num_prompts
    total, expected = sum(map(sum, lengths)), law.num_prompts * GROUP_SIZE * mean_length(law.end_probability, law.cap)
    assert abs(total / expected - 1) < (0.25 if law.end_probability else 1e-9), (total, expected)
    return total


def report_of(turns: dict[str, list[Turn]]) -> dict[str, Any]:
    speeds = {name: [tokens / seconds for tokens, seconds in of_one] for name, of_one in turns.items()}

    def ratio(name: str, to: str) -> float:
        return round(statistics.median(a / b for a, b in zip(speeds[name], speeds[to], strict=True)), 3)

    return {
        "tokens_per_s": {name: [round(speed) for speed in of_one] for name, of_one in speeds.items()},
        "median_ratio": {
            "ours_unseeded to bare": ratio("ours_unseeded", "bare"),
            "ours to bare_seeded": ratio("ours", "bare_seeded"),
            "ours to bare": ratio("ours", "bare"),
            "bare_seeded to bare": ratio("bare_seeded", "bare"),
        },
        "goal": GOAL,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--laws", nargs="+", default=list(LAWS), choices=list(LAWS))
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--logprobs", action="store_true", help="ask for the log-probability of each sampled token")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    report: dict[str, Any] = {
        "what": "rollout tokens a second",
        "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)},
        "settings": {"rounds": options.rounds, "logprobs": options.logprobs},
    }
    ray.init("local", num_cpus=8, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        for name in options.laws:
            with tempfile.TemporaryDirectory() as folder:
                turns = rounds_of(LAWS[name], Path(folder), options.rounds, logprobs=options.logprobs)
            report[name] = {"law": LAWS[name]._asdict(), **report_of(turns)}
    finally:
        ray.shutdown()
    print_report(report, options.out)


if __name__ == "__main__":
    main()
