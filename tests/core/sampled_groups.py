"""Episodes and groups as runners hand them out, written by hand, and what a pool says of them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch

from tgpo_ray.episode import ORIGIN_POLICY, Episode, EpisodeGroup, Guidance, SampledGroup, Task
from tgpo_ray.teachers import TeacherGroup, annotate


def episode_of(
    prompt: Sequence[int], response: Sequence[int], origin: Sequence[int] | None = None, *, problem: int = 0
) -> Episode:
    """A wrong answer to `problem`; the policy wrote all of it, or what `origin` says."""
    return Episode(
        prompt_ids=np.asarray(prompt, np.int32),
        response_ids=np.asarray(response, np.int32),
        origin=np.asarray([ORIGIN_POLICY] * len(response) if origin is None else origin, np.uint8),
        reward=0.0,
        outcome="wrong",
        stop_reason="stop",
        env_id="test",
        problem_index=problem,
        seed=0,
        weights_version=0,
    )


def group_of(*episodes: Episode, prompt_text: str = "", ordinal: int = 0, env_index: int = 0) -> SampledGroup:
    """Episodes of one problem, in Ray's object store."""
    import ray

    ref = ray.put(EpisodeGroup(episodes, prompt_text))
    task = Task(env_index, episodes[0].problem_index, 0, ordinal)
    return SampledGroup(ordinal, task, tuple(episode.info() for episode in episodes), ref)


def guided(pool: TeacherGroup, groups: list[SampledGroup], *want: str) -> list[tuple[Episode, Guidance]]:
    """Every episode with what the pool says of it."""
    import ray

    found = sorted(annotate(groups, lambda _: pool, want), key=lambda group: group.ordinal)
    assert [group.ordinal for group in found] == sorted(group.ordinal for group in groups)
    held: list[EpisodeGroup] = [ray.get(group.ref) for group in found]
    answers: list[list[Guidance]] = [ray.get(group.guidance["teacher"]) for group in found]
    return [pair for group, said in zip(held, answers, strict=True) for pair in zip(group.episodes, said, strict=True)]


def load(folder: str) -> tuple[Any, Any]:
    """Model and tokenizer of a folder, in transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def forced_logprobs(model: Any, prompt: Iterable[int], response: Iterable[int]) -> torch.Tensor:
    """(T, V): row t is the model's distribution of response token t."""
    read, written = list(map(int, prompt)), list(map(int, response))
    with torch.no_grad():
        return model(torch.tensor([read + written])).logits[0].log_softmax(-1)[len(read) - 1 : -1]


def process_of(handle: Any) -> int:
    """The process id of a Ray actor."""
    import ray

    return ray.get(handle.__ray_call__.remote(lambda _: os.getpid()))
