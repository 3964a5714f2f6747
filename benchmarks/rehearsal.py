"""The paper's batch with tiny models through the real actors: seconds, memory and waits, as JSON.

    python benchmarks/rehearsal.py --path gsm8k_train.jsonl                     # one runner, then two
    python benchmarks/rehearsal.py --path gsm8k_train.jsonl --groups 8 --max-response 64 --rows 500 --runners 1

TGPO with 128 groups of 8, 46,000 rows of real text (those of `--path`, again and again), two updates an iteration and
a teacher. Response lengths are geometric with mean 256, cut at 2,048: a random policy ends with the same probability at
every token. The learning rate is so small that it stays so. Every response reaches math-verify. Ray, vLLM, Ray Train
and the verifiers are real. Each number of runners has its own driver and cluster.

Seconds outside the models are those of an iteration in which no engine makes a step and no learner computes. The bare
engine is vLLM's `LLM` in a process of its own, with the same arguments, prompts and responses. `--profile` splits the
driver's processor time in a run that counts for nothing else.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.actor_clock import ActorClock
from benchmarks.driver_profile import DriverProfile
from benchmarks.process_memory import MemoryWatch
from benchmarks.reports import print_report
from benchmarks.tiny_policies import mean_length, read_problems, repeat_rows, write_policy

GROUP_SIZE, NUM_UPDATES = 8, 2
GOALS = {
    "runner_above_engine_mib": 300,
    "seconds_before_first_token": 2.0,
    "driver_us_per_episode": 250,
    "outside_models_share": 0.05,
    "slowest_stage_over_wall_at_staleness_1": 0.93,
}
VOCABULARY, MAX_PROMPT, TOKEN_BUDGET = 512, 1024, 16384
SHAPE: dict[str, Any] = {"num_attention_heads": 2, "max_position_embeddings": 4096}


def main() -> None:
    options = parse_arguments()
    if options.here:
        report = rehearse(options.runners[0], options)
    else:
        report = {
            "settings": {name: value for name, value in vars(options).items() if name not in ("here", "out", "card")},
            "machine": {"cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)},
            "goals": GOALS,
            "by_runners": {str(number): in_a_process_of_its_own(number) for number in options.runners},
        }
    print_report(report, options.out)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--path", required=True, help="jsonl with `problem` and `answer`, such as GSM8K's")
    parser.add_argument("--runners", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--iterations", type=int, default=3)
    parser.add_argument("--groups", type=int, default=128)
    parser.add_argument("--rows", type=int, default=46_000)
    parser.add_argument("--mean-response", type=float, default=256.0, help="of the geometric law, in tokens")
    parser.add_argument("--max-response", type=int, default=2048)
    parser.add_argument("--width", type=int, default=64, help="of the policy's and the teacher's layers")
    parser.add_argument("--max-staleness", type=int, help="training.max_staleness")
    parser.add_argument("--weight-update", help="env_runners.weight_update")
    parser.add_argument("--own-cores", action="store_true", help="ray.idle_cores: false, one thread for each actor")
    parser.add_argument("--card", type=Path, help="of `cost_model.py --card`: what the cost model predicts, too")
    parser.add_argument("--profile", action="store_true", help="where the driver's processor time goes")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    if not Path(options.path).is_file():
        parser.error(f"--path {options.path}: no such file: give a jsonl with `problem` and `answer`, such as GSM8K's")
    return options


def in_a_process_of_its_own(num_runners: int) -> dict[str, Any]:
    """Returns the result of `rehearse`, whose driver has had no other cluster in its memory."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        command = [sys.executable, __file__, *sys.argv[1:], "--runners", str(num_runners), "--here", "--out", str(out)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        return json.loads(out.read_text())


def rehearse(num_runners: int, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures of one run."""
    import ray

    with tempfile.TemporaryDirectory() as name, ActorClock() as clock:
        folder = Path(name)
        config = configuration(folder, num_runners, options)
        with MemoryWatch() as watch:
            settings: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False}
            ray.init("local", num_cpus=8, logging_level=logging.ERROR, runtime_env=clock.runtime_env, **settings)
            start = time.monotonic()
            try:
                algorithm = config.build_algo()
                started = time.monotonic()
                try:
                    iterations = [iterate(algorithm, clock, options) for _ in range(options.iterations)]
                    prompts = folder / "prompts.json"
                    prompts.write_text(json.dumps([prompt_of(group) for group in algorithm.sampled]))
                    watch.sample()
                finally:
                    algorithm.stop()
            finally:
                ray.shutdown()
        bare = bare_engine(config, prompts)
        predicted = {"predicted_s": prediction(config, iterations[-1], options.card)} if options.card else {}
    runner = max(peak["peak_rss_mib"] for peak in watch.peaks["EnvRunner"])
    return predicted | {
        "start_s": round(started - start, 1),
        "iterations": iterations,
        "memory_mib": watch.peaks,
        "bare_engine_mib": bare,
        "runner_above_engine_mib": round(runner - bare["peak_rss_mib"], 1),
    }


def configuration(folder: Path, num_runners: int, options: argparse.Namespace) -> Any:
    from tgpo_ray.config import AlgorithmConfig
    from tgpo_ray.models import byte_level_tokenizer, write_model

    rows = read_problems(options.path)
    tokenizer = byte_level_tokenizer([row["problem"] for row in rows], VOCABULARY)
    end = 1 / options.mean_response
    policy = write_policy(folder / "policy", "qwen2", tokenizer, end, **policy_shape(options.width))
    teacher = write_model(folder / "teacher", "qwen3", tokenizer, seed=1, **teacher_shape(options.width))
    data: dict[str, Any] = {
        "algorithm": "TGPO",
        "model": {"path": str(policy)},
        "teacher": {"path": str(teacher), "num_cpus_per_replica": 0.5, "kv_cache_memory": "256MiB"},
        "env": {"id": "tgpo/Math-v0", "kwargs": {"path": str(repeat_rows(rows, folder / "rows.jsonl", options.rows))}},
        "env_runners": {
            "num_env_runners": num_runners,
            "max_prompt_tokens": MAX_PROMPT,
            "max_response_tokens": options.max_response,
            "num_cpus_per_env_runner": 0.5,
            "kv_cache_memory": "512MiB",
        },
        "learners": {"num_cpus_per_learner": 0.5, "token_budget": max(TOKEN_BUDGET, MAX_PROMPT + options.max_response)},
        "training": {
            "groups_per_iteration": options.groups,
            "group_size": GROUP_SIZE,
            "updates_per_iteration": NUM_UPDATES,
            "lr": 1e-12,  # nothing moves, so the law of the lengths stays
        },
        "guidance": {"weight": 2e-3},
        "checkpointing": {"storage_path": str(folder / "runs")},
    }
    if options.own_cores:
        data["ray"] = {"idle_cores": False}
    if options.max_staleness is not None:
        data["training"]["max_staleness"] = options.max_staleness
    if options.weight_update is not None:
        data["env_runners"]["weight_update"] = options.weight_update
    return AlgorithmConfig.from_dict(data).check()


def policy_shape(width: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"hidden_size": width, "intermediate_size": 2 * width}
    return SHAPE | inner | {"num_hidden_layers": 2, "num_key_value_heads": 2}


def teacher_shape(width: int) -> dict[str, Any]:
    inner: dict[str, Any] = {"hidden_size": width, "intermediate_size": 3 * width, "head_dim": width // 2}
    return SHAPE | inner | {"num_hidden_layers": 3, "num_key_value_heads": 1}


def iterate(algorithm: Any, clock: ActorClock, options: argparse.Namespace) -> dict[str, Any]:
    """Returns the figures of one iteration, after a look at what must hold for it."""
    with DriverProfile(profiled=options.profile) as driver:
        start = time.monotonic()
        metrics = algorithm.train()
        end = time.monotonic()
    check(algorithm, metrics, options)
    busy = clock.busy(start, end)
    num_episodes = options.groups * GROUP_SIZE
    stages = {name: round(value, 3) for name, value in metrics.items() if name.startswith(("time/", "wait/"))}
    return {
        "seconds": round(end - start, 2),
        "seconds_before_first_token": round((busy.first_end or end) - start, 2),
        "mean_prompt": round(metrics["episode/prompt_length"], 1),
        "mean_response": round(metrics["tokens/response"] / num_episodes, 1),
        "longest_response": metrics["episode/response_length_max"],
        "tokens_per_s": round(metrics["tokens/response"] / (end - start)),
        **stages,
        **busy.report(os.cpu_count() or 1),
        "driver": driver.report(num_episodes),
    }


def check(algorithm: Any, metrics: dict[str, float], options: argparse.Namespace) -> None:
    """Every episode came back once, guided and verified, with a length of the law."""
    num_episodes = options.groups * GROUP_SIZE
    groups = algorithm.sampled
    assert sorted(group.ordinal for group in groups) == list(range(options.groups)), "a group is missing or came twice"
    assert all(len(group.infos) == GROUP_SIZE and "teacher" in group.guidance for group in groups)
    assert metrics["outcome/error"] == metrics["outcome/timeout"] == 0.0, "a verifier failed"
    assert metrics["episode/response_length_max"] <= options.max_response
    expected = mean_length(1 / options.mean_response, options.max_response)
    found = metrics["tokens/response"] / num_episodes
    error = 5 * options.mean_response / math.sqrt(num_episodes)  # five standard errors, or more where the cap cuts
    assert abs(found - expected) < error, f"responses have {found:.0f} tokens in the mean, the law {expected:.0f}"


def prompt_of(group: Any) -> list[int]:
    import ray

    episodes: Any = ray.get(group.ref)
    return episodes.episodes[0].prompt_ids.tolist()


def prediction(config: Any, measured: dict[str, Any], card: Path) -> dict[str, float]:
    """Returns the seconds of each stage and of an iteration by the cost model, for the lengths that were measured."""
    from tgpo_ray.costs import estimate, parse_cluster

    found = estimate(
        config, parse_cluster(str(card)), mean_prompt=measured["mean_prompt"], mean_response=measured["mean_response"]
    )
    timing = found.timing(found.counts)
    stages = {actor.kind: round(seconds, 2) for actor, seconds in zip(found.actors, timing.stages, strict=True)}
    return {**stages, "iteration": round(timing.iteration, 2)}


def bare_engine(config: Any, prompts: Path) -> dict[str, float]:
    """Returns the peak memory of vLLM alone, which answers the prompts of the last iteration."""
    from dataclasses import asdict

    from tgpo_ray.env_runners import env_runner_spec, training_sampling

    resolved = config.resolved(gpus=False)
    task = {
        "engine": asdict(env_runner_spec(resolved).engine),
        "sampling": asdict(training_sampling(resolved)),
        "prompts": json.loads(prompts.read_text()),
        "n": GROUP_SIZE,
    }
    command = [sys.executable, str(Path(__file__).with_name("bare_engine.py"))]
    done = subprocess.run(command, input=json.dumps(task), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    main()
