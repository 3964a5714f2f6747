"""GRPO as the TGPO paper's baseline runs it (GRPO++): token mean over the batch, no KL, clip 0.2, entropy 0.001."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from tgpo_ray.algorithm import OnPolicyAlgorithm
from tgpo_ray.config import AlgorithmConfig, TrainingConfig
from tgpo_ray.config.values import Positive

from .advantages import group_standardized
from .token_losses import PolicyLoss

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss


class GRPOTrainingConfig(TrainingConfig):
    """`training`. The defaults are those of the paper's scripts: 300 iterations of 128 x 8, two updates each."""

    updates_per_iteration: Positive = Field(default=2, description="Optimizer steps that share an iteration's groups.")


class GRPOConfig(AlgorithmConfig):
    """Configuration of GRPO."""

    algo_class: ClassVar[type | str | None] = "tgpo_ray.algorithms.grpo:GRPO"

    algorithm: str = Field(default="GRPO", description="GRPO, or an import path as my_pkg.mod:MyConfig.")
    training: GRPOTrainingConfig = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=GRPOTrainingConfig, description="Batch shape, optimizer, policy loss."
    )


class GRPO(OnPolicyAlgorithm):
    """Group-relative policy optimization with a token mean.

        A_i = (R_i - mean_G R) / (std_G R + 1e-6)
        L   = 1/Z sum_it m_it [ max(-A_i r_it, -A_i clip(r_it, 1 - low, 1 + high)) - entropy_weight H_it ]

    GRPO++ of Teacher-Guided Policy Optimization. Groups of equal reward stay: their advantage is 0, and under TGPO they
    still carry guidance.
    """

    config_class = GRPOConfig

    def advantages(self, groups: Sequence[SampledGroup]) -> list[np.ndarray]:
        return [group_standardized(np.asarray(group.rewards)) for group in groups]

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        return PolicyLoss(**self.policy_loss_options())

    def policy_loss_options(self) -> dict[str, Any]:
        training = self.config.training
        return {
            "clip_low": training.clip_low,
            "clip_high": training.clip_high,
            "entropy_weight": training.entropy_weight,
        }
