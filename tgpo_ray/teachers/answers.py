"""A check of a teacher's answers. The actor runs it, so the driver fetches no tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from itertools import chain

import numpy as np

from tgpo_ray.episode import Episode, EpisodeGroup, Guidance

MAX_LOGPROB = 1e-3  # nats: a sum of float32 exponentials may come out a little above one


@dataclass(frozen=True)
class AnswerCheck:
    """The part of one group's answer that the driver reads."""

    flaw: str  # why the answer is refused; empty if it is accepted
    num_sequences: int  # of the group
    num_cached: int = 0  # of those, answered without the model
    busy_s: float = 0.0  # seconds that the teacher worked on it


def flaw_of(answers: Sequence[Guidance], group: EpisodeGroup, num_policy_ids: int) -> str:
    """Returns the first flaw of these answers, or an empty text.

    An episode needs one answer, and a response token one row. Ids must be the policy's or -1, numbers finite, and
    log-probabilities at most 0.
    """
    if len(answers) != len(group):
        return f"{len(answers)} answers to {len(group)} episodes"
    flaws = (
        _flaws(guidance, episode, num_policy_ids) for guidance, episode in zip(answers, group.episodes, strict=True)
    )
    return next(chain.from_iterable(flaws), "")


def _flaws(guidance: Guidance, episode: Episode, num_policy_ids: int) -> Iterator[str]:
    """Yields the flaws of one episode's answer."""
    for field in fields(guidance):
        values = getattr(guidance, field.name)  # (T,), (T, k) or (T, D)
        if values is None:
            continue
        if len(values) != len(episode.response_ids):
            yield f"{field.name} has {len(values)} rows for {len(episode.response_ids)} response tokens"
        elif not len(values):
            continue
        elif field.name.endswith("_ids"):
            yield from _flaws_of_ids(field.name, values, num_policy_ids)
        elif not np.isfinite(values).all():
            yield f"{field.name} holds a number that is not finite"
        elif field.name.endswith("_logprobs") and values.max() > MAX_LOGPROB:
            yield f"{field.name} holds {values.max():g}, above 0"


def _flaws_of_ids(name: str, values: np.ndarray, num_policy_ids: int) -> Iterator[str]:
    if not np.issubdtype(values.dtype, np.integer):
        yield f"{name} are {values.dtype}, not whole numbers"
    elif values.min() < -1 or values.max() >= num_policy_ids:
        yield f"{name} reach from {values.min()} to {values.max()}, the policy has ids 0..{num_policy_ids - 1}"
