"""RKL: the reverse KL to the teacher, token by token, as the only reward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from tgpo_ray.config import (
    NonNegativeFloat,
    PositiveFloat,
    Share,
    named,
    section,
)

from .end_of_sequence import masked_ids
from .grpo import GRPO
from .grpo_config import REWARD_SHAPING, GRPOFamilyConfig
from .policy_options import PolicyOptions
from .ratio_config import RatioConfig, RatioTrainingConfig
from .taught import Taught
from .taught_config import TaughtConfig
from .teacher_ratio import TeacherRatioLoss

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss


class RKLTermConfig(RatioConfig):
    """`guidance` of RKL and OPDistill."""

    weight: NonNegativeFloat = Field(default=1.0, description="c, what the log-ratio is multiplied by.")
    discount: Share = Field(
        default=0.0, description="0: each token has its own log-ratio; 1: that of all tokens to come, too."
    )
    advantage_clip: PositiveFloat | None = Field(
        default=None, description="The log-ratio, summed, is cut to +- this; null: not cut."
    )


class RKLTrainingConfig(RatioTrainingConfig):
    """`training` of RKL. Rewards are measured, and nothing is trained on them."""

    unread = REWARD_SHAPING


class RKLConfig(GRPOFamilyConfig, TaughtConfig):
    """Configuration of RKL as the authors of TGPO ran it: two updates an iteration, clip 0.2, entropy 0.001."""

    algo_class = "tgpo_ray.algorithms.rkl:RKL"
    group_relative = False  # a response has its own log-ratio, so a group of one teaches too

    algorithm: str = named("RKL")
    training: RKLTrainingConfig = section(RKLTrainingConfig, "Batch shape, optimizer, policy loss.")
    guidance: RKLTermConfig = section(RKLTermConfig, "The teacher's log-ratio.")


def ratio_loss(config: RKLConfig, weight: float, options: PolicyOptions) -> TeacherRatioLoss:
    """The loss of a method whose only reward is the teacher's log-ratio, times `weight`."""
    guidance = config.guidance
    return TeacherRatioLoss(
        **options,
        ratio_weight=weight,  # `reward_weight` stays 0: no task reward
        discount=guidance.discount,
        advantage_clip=guidance.advantage_clip,
        eos_ids=masked_ids(config.model, guidance),
    )


class RKL(Taught[RKLConfig], GRPO[RKLConfig]):
    """Reverse KL to the teacher as the sole reward: A_t = weight (log pi_T(y_t) - log pi_old(y_t)).

    Teacher-Guided Policy Optimization (arXiv 2605.13230), section 2, Eq. 1 and 8. The verifier's reward is measured
    and not trained on. The rest is GRPO's clipped token mean. In the authors' code this and OPDistill are one run.
    `OPDistill` here is the method of its own authors.
    """

    config_class = RKLConfig

    def wanted(self) -> set[str]:
        return {"logprob"}

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        return ratio_loss(self.config, self.guidance_weight, self.policy_options(groups))
