"""RKL: the teacher's reverse KL, token by token, as the only reward."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from tgpo_ray.config import (
    NonNegativeFloat,
    PositiveFloat,
    Share,
    named,
    section,
)
from tgpo_ray.models import end_of_sequence_ids

from .grpo_config import REWARD_SHAPING
from .ratio_config import RatioConfig, RatioTrainingConfig
from .taught_config import TaughtConfig
from .teacher_ratio import TeacherRatioLoss
from .tgpo import TGPO

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss
    from tgpo_ray.teachers import TeacherGroup


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
    """`training` of RKL, which measures rewards and does not train on them."""

    unread = REWARD_SHAPING


class RKLConfig(TaughtConfig):
    """Configuration of RKL: two updates an iteration, clip 0.2, entropy 0.001, as the authors of TGPO ran it."""

    algo_class = "tgpo_ray.algorithms.rkl:RKL"

    algorithm: str = named("RKL")
    training: RKLTrainingConfig = section(RKLTrainingConfig, "Batch shape, optimizer, policy loss.")
    guidance: RKLTermConfig = section(RKLTermConfig, "The teacher's log-ratio.")


class RatioAlgorithm(TGPO):
    """What the log-ratio methods share: the teacher says how likely it finds each of the policy's tokens."""

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        super().build_scorers(teachers)
        model = self.config.model
        masked = self.config.guidance.mask_teacher_at_eos
        ends = end_of_sequence_ids(model.path, model.tokenizer, trust_remote_code=model.trust_remote_code)
        self.eos_ids = ends if masked else ()

    @property
    def loss_needs_batch(self) -> bool:
        return False

    def wanted(self) -> set[str]:
        return {"logprob"}


class RKL(RatioAlgorithm):
    """Reverse KL to the teacher as the sole reward: A_t = weight (log pi_T(y_t) - log pi_old(y_t)).

    Teacher-Guided Policy Optimization (arXiv 2605.13230), section 2, Eq. 1 and 8. The verifier's reward is measured
    and not trained on; the rest is GRPO's clipped token mean. In the authors' code this and OPDistill are one run;
    `OPDistill` here is the method of its own authors.
    """

    config_class = RKLConfig
    reward_weight: ClassVar[float] = 0.0

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        guidance = self.config.guidance
        options: dict[str, Any] = self.policy_loss_options()
        return TeacherRatioLoss(
            **options,
            reward_weight=self.reward_weight,
            ratio_weight=self.guidance_weight,
            discount=guidance.discount,
            advantage_clip=guidance.advantage_clip,
            eos_ids=self.eos_ids,
        )
