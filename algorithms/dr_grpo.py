"""Dr. GRPO as Oat-Zero runs it, which divides neither by the group's deviation nor by a response's length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from tgpo_ray.config import NonNegativeFloat, Positive, named, section

from .advantages import mean_centered
from .grpo import GRPO
from .grpo_config import GRPOFamilyConfig, GRPOTrainingConfig

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup


class DrGRPOTrainingConfig(GRPOTrainingConfig):
    """`training`, with the defaults of Oat-Zero's script: 128 x 8 responses, 8 updates, no entropy bonus."""

    updates_per_iteration: Positive = Field(default=8, description="Optimizer steps that share an iteration's groups.")
    loss_aggregation: Literal["token", "sequence", "constant"] = Field(
        default="constant", description="constant: each response's sum over max_response_tokens, then the mean of them."
    )
    entropy_weight: NonNegativeFloat = Field(default=0.0, description="Weight of the entropy bonus.")
    zero_truncated: bool = Field(default=True, description="A response cut by the token limit has reward 0.")


class DrGRPOConfig(GRPOFamilyConfig):
    """Configuration of Dr. GRPO."""

    algo_class = "tgpo_ray.algorithms.dr_grpo:DrGRPO"

    algorithm: str = named("DrGRPO")
    training: DrGRPOTrainingConfig = section(DrGRPOTrainingConfig, "Batch shape, optimizer, policy loss.")


class DrGRPO(GRPO[DrGRPOConfig]):
    """GRPO without its two biases (Liu et al. 2025, 2503.20783).

        A_i = R_i - mean_G R
        L   = 1/B sum_i 1/L_max sum_t m_it max(-A_i r_it, -A_i clip(r_it, 0.8, 1.2)),   L_max = max_response_tokens

    B counts the responses of an update. L_max is a constant. Some trainers divide by the padded length instead, which
    makes the step depend on the longest response of the batch. Truncated responses have reward 0.
    """

    config_class = DrGRPOConfig

    def advantages(self, groups: Sequence[SampledGroup]) -> list[np.ndarray]:
        return [mean_centered(self.rewards(group)) for group in groups]  # (G,) each
