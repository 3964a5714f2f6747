"""The command `tgpo-ray prefixes`, which writes responses with the teacher's token at every position.

TGPO trains on that file with `guidance.prefixes: base`, `teacher` or `mixed`.
"""

from __future__ import annotations

import argparse
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from tgpo_ray import cluster
from tgpo_ray.checks import check_environments, check_models, left_out
from tgpo_ray.cli.traces import build_writers, checked_target, tasks_of, teacher_of
from tgpo_ray.cli.unfinished import Unfinished, content_of
from tgpo_ray.config import ENV_RUNNER, AlgorithmConfig, check_resources, teacher_kind
from tgpo_ray.env_runners import EnvRunnerGroup, build_env_runners, training_sampling
from tgpo_ray.episode import ORIGIN_BASE, ORIGIN_POLICY, EpisodeGroup, SampledGroup, Task
from tgpo_ray.models import end_of_response, load_tokenizer
from tgpo_ray.teachers import (
    PrefixHeader,
    annotate,
    build_teachers,
    head_bytes,
    row_bytes,
    trace_episode,
    vocabulary_digest,
)

if TYPE_CHECKING:
    from tgpo_ray.models import Tokenizer

PREFIX_KEYS = ("prefixes", "prefix_file", "prefixes_per_group")


def write_prefixes(options: argparse.Namespace) -> int:
    """Returns the exit status, after it has written the labelled responses."""
    target = checked_target(options)
    config = labelling(AlgorithmConfig.from_yaml(options.config, options.overrides)).check()
    teacher_of(config, options.teacher)
    check_models(config)
    out = left_out(config, check_environments(config))
    owns_ray = cluster.connect(config.ray)
    try:
        teacher = teacher_kind(options.teacher)
        kinds = (ENV_RUNNER if options.of == "base" else teacher, teacher)
        check_resources(config, ray.cluster_resources(), cluster.node_resources(), only=kinds)
        config = config.resolved(gpus=cluster.has_gpus())
        num_rows, num_problems = _write(config, options, target, out)
    finally:
        if owns_ray:
            ray.shutdown()
    print(f"{target}: {num_rows} labelled responses of the {options.of} to {num_problems} problems")
    return 0


def labelling(config: AlgorithmConfig) -> AlgorithmConfig:
    """Returns the configuration, changed to ask its teachers where it reads the file that is to be written."""
    guidance: Any = getattr(config, "guidance", None)
    if getattr(guidance, "prefixes", "policy") == "policy":
        return config
    return guidance(**{key: type(guidance).model_fields[key].default for key in PREFIX_KEYS})


def _write(
    config: AlgorithmConfig, options: argparse.Namespace, target: Path, out: Sequence[Collection[int]]
) -> tuple[int, int]:
    """Returns (rows, problems). Sampling and labelling overlap, group by group."""
    teacher = teacher_of(config, options.teacher)
    tokenizer = load_tokenizer(
        config.model.tokenizer or config.model.path, trust_remote_code=config.model.trust_remote_code
    )
    end = end_of_response(config.model.path, tokenizer)
    header = header_of(config, options.of, teacher.path, tokenizer)
    command = content_of(config, options, "of", "teacher", "num_samples", "num_problems")
    unfinished = Unfinished(target, command, head_bytes(header), rows="responses")
    is_base = options.of == "base"
    pool = build_teachers(config, {options.teacher: teacher}, unmapped=config.unmapped)[options.teacher]
    runners = build_env_runners(config, frozen=True) if is_base else build_writers(config, teacher)
    try:
        for group in (pool, runners):
            group.wait_until_ready()
        tasks = tasks_of(config, runners, options.num_problems, out)
        with unfinished as file:
            written = _sampled(config, runners, options, file.left(tasks))
            own = written if is_base else (in_policys_ids(group, tokenizer, end) for group in written)
            for group in annotate(own, lambda _: pool, {"argmax"}):
                if "teacher" in group.guidance:  # one without an answer is asked again by the next command
                    rows = list(rows_of(group))
                    file.write(group.ordinal, row_bytes(rows), len(rows))
        return file.num_rows, len(tasks)
    finally:
        runners.stop()
        pool.stop()


def _sampled(
    config: Any, runners: EnvRunnerGroup, options: argparse.Namespace, tasks: Sequence[Task]
) -> Iterator[SampledGroup]:
    """Yields the groups as a run would sample them."""
    number = options.num_samples or config.training.group_size
    sampling = replace(training_sampling(config), logprobs=False)
    yield from runners.sample(tasks, number, sampling, config.seed)


def header_of(config: AlgorithmConfig, written_by: str, teacher: str, tokenizer: Tokenizer) -> PrefixHeader:
    """Returns what the file says of itself."""
    return PrefixHeader(written_by, config.model.path, teacher, vocabulary_digest(tokenizer))


def in_policys_ids(group: SampledGroup, tokenizer: Tokenizer, end: int) -> SampledGroup:
    """Returns the teacher's responses of one turn as the policy's tokenizer reads them. Others are left out."""
    content: EpisodeGroup = ray.get(group.ref)
    episodes = []
    for episode, text in zip(content.episodes, content.response_texts, strict=True):
        if not np.all(episode.origin == ORIGIN_POLICY):
            continue
        read = trace_episode(tokenizer, content.prompt_text, text, episode.problem_index, end=end)
        last = None if episode.stop_reason == "stop" else -1  # a cut response has no end
        ids, origin = read.response_ids[:last], read.origin[:last]
        episodes.append(
            replace(episode, prompt_ids=read.prompt_ids, response_ids=ids, origin=origin, old_logprobs=None)
        )
    kept = replace(content, episodes=tuple(episodes), response_texts=())
    return replace(group, infos=tuple(it.info() for it in episodes), ref=ray.put(kept), members=None)


def rows_of(group: SampledGroup) -> Iterator[dict[str, Any]]:
    """Yields the rows of a labelled group."""
    content: EpisodeGroup = ray.get(group.ref)
    for episode, labels in zip(content.episodes, ray.get(group.guidance["teacher"]), strict=True):
        yield {
            "prompt": content.prompt_text,
            "response_ids": episode.response_ids,
            "origin": np.where(episode.origin == ORIGIN_POLICY, ORIGIN_BASE, episode.origin).astype(np.uint8),
            "label_ids": labels.teacher_ids,
            "reward": episode.reward,
            "outcome": episode.outcome,
            "stop_reason": episode.stop_reason,
        }
