"""What the tests of learner groups share: settings, losses that misbehave, one batch, and how weights are compared."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from tests.episodes import random_episode, stored_group
from tgpo_ray.algorithms.token_losses import PolicyLoss
from tgpo_ray.episode import SampledGroup
from tgpo_ray.kernels import TokenLoss
from tgpo_ray.learners.group import LearnerGroup
from tgpo_ray.learners.learner import LearnerSpec
from tgpo_ray.learners.planning import Piece
from tgpo_ray.learners.strategies import StrategyOptions
from tgpo_ray.learners.train_run import Placement, TrainRun

LOSS = PolicyLoss(entropy_weight=0.01)
LR = 1e-3
TOKEN_BUDGET = 40  # two or three sequences a micro-batch
SIZES = (4, 4, 3)  # 11 episodes: two ranks cannot have as many each
ADVANTAGES = [np.asarray([1.0, -1.0, 0.5, -0.5][:size], np.float32) for size in SIZES]


@dataclass(frozen=True)
class FailingLoss(TokenLoss):
    def __call__(self, logprobs: Any, entropy: Any, rows: Any) -> Any:
        raise ArithmeticError("this loss always fails")


@dataclass(frozen=True)
class HangingLoss(TokenLoss):
    def __call__(self, logprobs: Any, entropy: Any, rows: Any) -> Any:
        time.sleep(10_000)


@dataclass(frozen=True)
class Setting:
    """One learner group: engine, ranks, precision."""

    engine: str
    num_ranks: int
    zero_stage: int = 0
    dtype: str = "float32"
    offload: str = "none"
    layout: str = "padded"

    def __str__(self) -> str:
        stage = f"-zero{self.zero_stage}" if self.engine == "deepspeed" else ""
        offload = "-offload" if self.offload != "none" else ""
        layout = f"-{self.layout}" if self.layout != "padded" else ""
        return f"{self.engine}{stage}-{self.dtype}{offload}{layout}-{self.num_ranks}-ranks"

    def spec(self, model: str) -> LearnerSpec:
        options: Any = StrategyOptions(
            strategy=self.engine,  # pyright: ignore[reportArgumentType]
            dtype=self.dtype,  # pyright: ignore[reportArgumentType]
            zero_stage=self.zero_stage,
            offload=self.offload,  # pyright: ignore[reportArgumentType]
            lr=LR,
        )
        layout: Any = self.layout
        return LearnerSpec(model, model, options, temperature=0.8, threads=1, layout=layout)


def sampled_groups() -> list[SampledGroup]:
    """The batch of every test here: three groups of different sizes and lengths, in Ray's object store."""
    rng = np.random.default_rng(0)
    found = []
    for ordinal, size in enumerate(SIZES):
        episodes = [random_episode(rng=rng, length=int(rng.integers(3, 12)), reward=1.0) for _ in range(size)]
        of_group = [replace(episode, prompt_ids=episodes[0].prompt_ids) for episode in episodes]
        found.append(stored_group(episodes=of_group, ordinal=ordinal))
    return found


def start(setting: Setting, model: str, storage: Path, **changes: Any) -> LearnerGroup:
    """A learner group that is still starting."""
    run = TrainRun(str(storage), "learners", **changes)
    return LearnerGroup(setting.spec(model), Placement(setting.num_ranks, 0.25), run, TOKEN_BUDGET)


def num_tokens(groups: list[SampledGroup]) -> float:
    return float(sum(group.num_policy_tokens for group in groups))


def pieces_of(groups: list[SampledGroup]) -> list[Piece]:
    return [
        Piece(group.ordinal, group.ref, {}, values, tuple(range(len(values))))
        for group, values in zip(groups, ADVANTAGES, strict=True)
    ]


def update(learners: LearnerGroup, groups: list[SampledGroup]) -> dict[str, float]:
    """One update in two accumulations."""
    learners.accumulate(groups[:2], ADVANTAGES[:2], LOSS)
    learners.accumulate(groups[2:], ADVANTAGES[2:], LOSS)
    return learners.step(num_tokens(groups), LR)
