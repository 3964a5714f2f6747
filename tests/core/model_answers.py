"""What pools say of groups, and what transformers says of the same tokens."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

import torch

from tgpo_ray.episode import Episode, EpisodeGroup, Guidance, SampledGroup
from tgpo_ray.teachers import TeacherGroup, annotate


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
