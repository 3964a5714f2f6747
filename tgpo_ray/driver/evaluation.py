"""Held-out evaluation on the runners' engines, by index, with avg@k and pass@k."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from tgpo_ray.env_runners import EnvRunnerGroup, evaluation_tasks
from tgpo_ray.episode import EpisodeGroup, SampledGroup, Task

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig

MAX_SAMPLES = 8  # groups whose texts go to samples.jsonl
OVERLONG_SET = "the prompt of every problem has more than env_runners.max_prompt_tokens tokens: raise it"


def sampling_seed(seed: int, iteration: int) -> int:
    """The seed of the episodes of an iteration of a run. An evaluation after it has the next one."""
    return seed * 1_000_003 + iteration * 1_009


def evaluate(
    config: AlgorithmConfig, runners: EnvRunnerGroup, seed: int, left_out: Sequence[Collection[int]] = ()
) -> tuple[dict[str, float], list[SampledGroup]]:
    """Metrics under `evaluation/`, and some groups for the report.

    Problems are taken by index and have fixed seeds, so that two evaluations see the same problems.

    Args:
        left_out: of each environment of the runners, the problems whose prompts are too long.

    Raises:
        ValueError: every prompt of a set is too long.
    """

    section = config.evaluation
    first = len(config.envs)  # runners have the training environments, then the held-out ones
    left_out = left_out or [()] * (first + len(section.envs))
    tasks = [
        evaluation_tasks(i, runners.num_problems[i], section.max_problems, config.seed, left_out[i])
        for i in range(first, first + len(section.envs))
    ]
    overlong_before = runners.num_overlong
    sets = _sampled_sets(config, runners, tasks, seed)
    metrics: dict[str, float] = {}
    summaries = [summary(groups) for groups in sets]
    if len(sets) > 1:
        for env, figures in zip(section.envs, summaries, strict=True):
            metrics |= {f"evaluation/{env.label}/{name}": value for name, value in figures.items()}
    # Each set weighs the same, whatever its size. pass@k has no mean over different k.
    shared = set(summaries[0]).intersection(*summaries)
    for name in [name for name in summaries[0] if name in shared and name != "pass_at_1"]:
        metrics[f"evaluation/{name}"] = float(np.mean([figures[name] for figures in summaries]))
    metrics["evaluation/num_problems"] = float(sum(map(len, sets)))
    if config.env_runners.overlong_prompts == "drop":
        num_left_out = sum(map(len, left_out[first:]))
        metrics["evaluation/overlong_prompts"] = float(num_left_out + runners.num_overlong - overlong_before)
    return metrics, [group for groups in sets for group in groups[:MAX_SAMPLES]]


def _sampled_sets(
    config: AlgorithmConfig, runners: EnvRunnerGroup, tasks: Sequence[Sequence[Task]], seed: int
) -> list[list[SampledGroup]]:
    """Returns the groups of each set, by problem. Sets with equally many responses a problem are sampled together.

    The engines then wait for the longest responses once, and not once a set.
    """
    from tgpo_ray.env_runners import evaluation_sampling

    section, first = config.evaluation, len(config.envs)
    sets: list[list[SampledGroup]] = [[] for _ in tasks]
    numbers = [section.samples_of(env) for env in section.envs]
    for number in dict.fromkeys(numbers):
        together = [task for own, count in zip(tasks, numbers, strict=True) if count == number for task in own]
        numbered = [replace(task, ordinal=ordinal) for ordinal, task in enumerate(together)]
        for group in runners.sample(numbered, number, evaluation_sampling(config), seed):
            sets[group.task.env_index - first].append(group)
    for i, groups in enumerate(sets):
        if not groups:
            raise ValueError(f"evaluation.envs.{i}: {OVERLONG_SET}")
        groups.sort(key=lambda group: group.task.problem_index)
    return sets


def summary(groups: Sequence[SampledGroup]) -> dict[str, float]:
    """avg@k, pass@k (any of the k samples is right), mean reward and mean length of one set."""
    right = np.asarray([[info.outcome == "correct" for info in group.infos] for group in groups])  # (P, k)
    infos = [info for group in groups for info in group.infos]
    return {
        "accuracy": float(right.mean()),
        f"pass_at_{right.shape[1]}": float(right.any(axis=1).mean()),
        "reward": float(np.mean([info.reward for info in infos])),
        "response_length": float(np.mean([info.num_response_tokens for info in infos])),
        "truncated": float(np.mean([info.stop_reason == "length" for info in infos])),
    }


def sample_rows(groups: Iterable[SampledGroup], iteration: int, phase: str) -> list[dict[str, Any]]:
    """Rows of samples.jsonl with prompts, responses and rewards, fetched from the object store."""
    rows = []
    for group in groups:
        episodes: EpisodeGroup = ray.get(group.ref)
        rows.append(
            {
                "iteration": iteration,
                "phase": phase,
                "prompt": episodes.prompt_text,
                "responses": list(episodes.response_texts),
                "rewards": [episode.reward for episode in episodes.episodes],
                "outcomes": [episode.outcome for episode in episodes.episodes],
            }
        )
    return rows
