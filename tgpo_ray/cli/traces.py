"""The command `tgpo-ray traces`, which writes a file of a teacher's answers that the verifier approves.

SFT trains on that file (`data.path`). LUFFY mixes it into groups (`traces.path`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from tgpo_ray import cluster
from tgpo_ray.checks import check_environments, check_models, left_out
from tgpo_ray.cli.unfinished import Unfinished, content_of
from tgpo_ray.env_runners import Cursor, EnvRunnerGroup, env_runner_spec
from tgpo_ray.episode import ORIGIN_POLICY, EpisodeGroup, SampledGroup, Task
from tgpo_ray.models import EngineSpec, Sampling

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig, TeacherConfig


def write_traces(options: argparse.Namespace) -> int:
    """Returns the exit status, after it has written the teacher's right answers as jsonl."""
    from tgpo_ray.config import (
        AlgorithmConfig,
        check_resources,
        greedy_problems,
        teacher_kind,
        temperature_problems,
    )

    target = checked_target(options)
    problems = [
        *temperature_problems("--temperature", options.temperature),
        *greedy_problems("--temperature", options.temperature, "--num-samples", options.num_samples),
    ]
    if problems:
        raise ValueError("; ".join(problems))
    config = AlgorithmConfig.from_yaml(options.config, options.overrides).check()
    teacher_of(config, options.teacher)
    check_models(config)
    out = left_out(config, check_environments(config))
    owns_ray = cluster.connect(config.ray)
    try:
        kinds = [teacher_kind(options.teacher)]
        check_resources(config, ray.cluster_resources(), cluster.node_resources(), only=kinds)
        config = config.resolved(gpus=cluster.has_gpus())
        command = content_of(config, options, "teacher", "temperature", "num_samples", "num_problems")
        unfinished = Unfinished(target, command, rows="traces")
        runners = build_writers(config, teacher_of(config, options.teacher))
        try:
            num_problems, num_traces = _write(config, runners, options, unfinished, out)
        finally:
            runners.stop()
    finally:
        if owns_ray:
            ray.shutdown()
    share = num_traces / num_problems
    print(f"{target}: {num_traces} traces of {num_problems} problems ({share:.1%} had a right answer)")
    return 0


def checked_target(options: argparse.Namespace) -> Path:
    """Returns the file of `--to`, which must be new, after a look at the numbers of the other options."""
    target = Path(options.to)
    if target.exists():
        raise ValueError(f"--to: {target} exists already: name another file, or move it away")
    for name in ("num_problems", "num_samples"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')}: must be >= 1, got {value}")
    return target


def teacher_of(config: AlgorithmConfig, name: str) -> TeacherConfig:
    """Returns the section of the teacher called `name`.

    Raises:
        ConfigError: the file has no teachers, or no teacher of that name.
    """
    from tgpo_ray.config import ConfigError

    teachers = config.teacher_pools()
    if not len(teachers):
        raise ConfigError(
            [f"teachers: required here, {config.algorithm} has none: use a file of an algorithm with one"]
        )
    if name not in teachers:
        known = ", ".join(known for known, _ in teachers.items())
        raise ConfigError([f"teachers.{name}: no such teacher; there is: {known}"])
    return teachers[name]


def build_writers(config: AlgorithmConfig, teacher: TeacherConfig) -> EnvRunnerGroup:
    """Returns EnvRunners with the teacher in place of the policy, and the same environments, verifiers and limits."""
    from tgpo_ray.config import resolve_kv_cache

    spec = env_runner_spec(config)
    # another backend keeps `auto`, because it has no KV cache; here the teacher runs in vLLM whatever its backend
    kv_cache = resolve_kv_cache(teacher.kv_cache_memory, gpus=teacher.num_gpus_per_replica)
    engine = EngineSpec.of_sections(
        teacher,
        teacher.model_copy(update={"kv_cache_memory": kv_cache}),
        max_model_len=spec.engine.max_model_len,
        trust_remote_code=config.model.trust_remote_code,
        seed=config.seed,
        gpus=teacher.num_gpus_per_replica,
    )
    envs = spec.envs[: len(config.envs)]
    return EnvRunnerGroup(
        replace(spec, engine=engine, envs=envs, gpu=bool(teacher.num_gpus_per_replica), frozen=True),
        teacher.num_replicas,
        num_cpus=teacher.num_cpus_per_replica,
        num_gpus=teacher.num_gpus_per_replica or 0.0,
        max_restarts=config.fault_tolerance.max_env_runner_restarts,
        start_timeout_s=config.fault_tolerance.start_timeout_s,
        sample_timeout_s=config.fault_tolerance.sample_timeout_s,
    )


def _write(
    config: AlgorithmConfig,
    runners: EnvRunnerGroup,
    options: argparse.Namespace,
    unfinished: Unfinished,
    out: Sequence[Collection[int]],
) -> tuple[int, int]:
    """Returns (problems, traces written)."""
    tasks = tasks_of(config, runners, options.num_problems, out)
    sampling = Sampling(
        config.env_runners.max_response_tokens,
        temperature=options.temperature,
        stop=tuple(config.env_runners.stop),
    )
    with unfinished as file:
        for group in runners.sample(file.left(tasks), options.num_samples, sampling, config.seed):
            part = _right_answer(group)
            file.write(group.ordinal, part, 1 if part else 0)
    return len(tasks), file.num_rows


def tasks_of(
    config: AlgorithmConfig, runners: EnvRunnerGroup, number: int | None, out: Sequence[Collection[int]]
) -> list[Task]:
    """Returns the first `number` problems that a run would meet, or every row of its training environments.

    Args:
        out: of each environment, the problems that are left out.
    """
    num_problems, out = runners.num_problems[: len(config.envs)], out[: len(config.envs)]
    count = number or _all_problems(num_problems) - sum(map(len, out))
    return Cursor(num_problems, [env.weight for env in config.envs], config.seed, left_out=out).next(count)


def _all_problems(counts: list[int | None]) -> int:
    if any(count is None for count in counts):
        raise ValueError("--num-problems is required: one of the environments makes its problems up, without end")
    return sum(count for count in counts if count is not None)


def _right_answer(group: SampledGroup) -> bytes:
    """Returns the line of the group's first right answer; nothing where there is none."""
    episodes: EpisodeGroup = ray.get(group.ref)
    for row in _right_answers(episodes):
        return f"{json.dumps(row, ensure_ascii=False)}\n".encode()
    return b""


def _right_answers(group: EpisodeGroup) -> Iterator[dict[str, Any]]:
    """Yields rows of the responses that are right, complete, and written by the model from beginning to end."""
    for episode, text in zip(group.episodes, group.response_texts, strict=True):
        own = bool(np.all(episode.origin == ORIGIN_POLICY))
        if episode.outcome == "correct" and episode.stop_reason == "stop" and own:
            yield {
                "prompt": group.prompt_text,
                "response": text,
                "reward": episode.reward,
                "env": episode.env_id,
                "problem_index": episode.problem_index,
                "seed": episode.seed,
                "num_tokens": len(episode.response_ids),
            }
