"""Held-out evaluation on the runners' engines, by index, with avg@k and pass@k."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import ray

from tgpo_ray.env_runners import EnvRunnerGroup, evaluation_tasks
from tgpo_ray.episode import EpisodeGroup, SampledGroup

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig

MAX_SAMPLES = 8  # groups whose texts go to samples.jsonl
OVERLONG_SET = "the prompt of every problem has more than env_runners.max_prompt_tokens tokens: raise it"


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
    from tgpo_ray.env_runners import evaluation_sampling

    section = config.evaluation
    first = len(config.envs)  # runners have the training environments, then the held-out ones
    metrics: dict[str, float] = {}
    sets: list[list[SampledGroup]] = []
    num_overlong, overlong_before = 0, runners.num_overlong
    for i, env in enumerate(section.envs):
        out = left_out[first + i] if left_out else ()
        tasks = evaluation_tasks(first + i, runners.num_problems[first + i], section.max_problems, config.seed, out)
        groups = list(runners.sample(tasks, section.num_samples, evaluation_sampling(config), seed))
        if not groups:
            raise ValueError(f"evaluation.envs.{i}: {OVERLONG_SET}")
        num_overlong += len(out)
        sets.append(sorted(groups, key=lambda group: group.ordinal))
        if len(section.envs) > 1:
            metrics |= {f"evaluation/{env.label}/{name}": value for name, value in summary(sets[-1]).items()}
    # Each set weighs the same, whatever its size.
    for name in ("accuracy", "reward", "response_length", "truncated"):
        metrics[f"evaluation/{name}"] = float(np.mean([summary(groups)[name] for groups in sets]))
    metrics["evaluation/num_problems"] = float(sum(map(len, sets)))
    if config.env_runners.overlong_prompts == "drop":
        metrics["evaluation/overlong_prompts"] = float(num_overlong + runners.num_overlong - overlong_before)
    if section.num_samples > 1:
        name = f"pass_at_{section.num_samples}"
        metrics[f"evaluation/{name}"] = float(np.mean([summary(groups)[name] for groups in sets]))
    return metrics, [group for groups in sets for group in groups[:MAX_SAMPLES]]


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
