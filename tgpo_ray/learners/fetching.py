"""The episodes of a micro-batch, fetched from Ray's object store."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import ray

from tgpo_ray.episode import EpisodeGroup
from tgpo_ray.learners.batch import TrainEpisode
from tgpo_ray.learners.planning import MicroBatch

ValueT = TypeVar("ValueT")


def episodes_of(micro_batch: MicroBatch) -> Iterator[TrainEpisode]:
    """Yields the episodes of a micro-batch. References are fetched from Ray's object store."""
    for piece in micro_batch:
        group: EpisodeGroup = _fetch(piece.ref)
        guidance = {scorer: _fetch(ref) for scorer, ref in piece.guidance.items()}
        for i in piece.members:
            scorers = {**group.episodes[i].guidance, **{scorer: answers[i] for scorer, answers in guidance.items()}}
            advantage = float(piece.advantages[i])
            yield TrainEpisode((piece.ordinal, i), group.episodes[i], scorers, advantage, piece.success)


def _fetch(value: ray.ObjectRef[ValueT] | ValueT) -> ValueT:
    return ray.get(value) if isinstance(value, ray.ObjectRef) else value
