"""What the tests of one learner share: its specification and batches of hand-made episodes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from tests.episodes import random_episode
from tgpo_ray.algorithms.token_losses import PolicyLoss
from tgpo_ray.episode import ORIGIN_ENVIRONMENT, Episode, EpisodeGroup, Guidance
from tgpo_ray.learners.learner import Learner, LearnerSpec
from tgpo_ray.learners.planning import Piece
from tgpo_ray.learners.strategies import StrategyOptions

TEMPERATURE = 0.7
ENTROPY_WEIGHT = 0.01
ALL = PolicyLoss(entropy_weight=ENTROPY_WEIGHT)


def spec_of(model: str, **changes: Any) -> LearnerSpec:
    options = changes.pop("options", StrategyOptions(lr=1e-3))
    return LearnerSpec(model, model, options, temperature=TEMPERATURE, threads=1, **changes)


def episode(seed: int, length: int, *, guided: bool = True, environment: slice = slice(0)) -> Episode:
    """5 prompt tokens, `length` response tokens; `environment` says which of those the environment wrote."""
    rng = np.random.default_rng(seed)
    one = random_episode(rng=rng, length=length, reward=1.0, weights_version=1)
    one.origin[environment] = ORIGIN_ENVIRONMENT
    teacher = Guidance(teacher_ids=rng.integers(2, 20, length).astype(np.int32))
    return replace(one, guidance={"teacher": teacher} if guided else {})


def piece(ordinal: int, episodes: Sequence[Episode], advantages: Sequence[float]) -> Piece:
    group = EpisodeGroup(tuple(episodes))
    return Piece(ordinal, group, {}, np.asarray(advantages, np.float32), tuple(range(len(episodes))))


def three_groups() -> list[Piece]:
    """Three groups of two, 32 policy tokens; in the first an environment speaks in the middle of a response."""
    return [
        piece(0, [episode(0, 9, environment=slice(3, 6)), episode(1, 3)], [1.0, -1.0]),
        piece(1, [episode(2, 6), episode(3, 1)], [0.5, -0.5]),
        piece(2, [episode(4, 4), episode(5, 12)], [-2.0, 2.0]),
    ]


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in learner.named_weights()}
