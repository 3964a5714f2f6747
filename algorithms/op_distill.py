"""OPDistill: the on-policy distillation that Thinking Machines describe."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from tgpo_ray.config import NonNegativeFloat, OldLogprobs, Positive, PositiveFloat, RunView, named, section

from .grpo import GRPO
from .grpo_config import REWARD_SHAPING
from .ratio_config import RatioTrainingConfig
from .rkl import RKLConfig, ratio_loss
from .taught import Taught

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss


class OPDistillTrainingConfig(RatioTrainingConfig):
    """`training` of OPDistill: one update of groups of 4, the rate of full fine-tuning, no entropy bonus."""

    unread = ("clip_low", "clip_high", "dual_clip", *REWARD_SHAPING)

    groups_per_iteration: Positive = Field(default=512, description="Problems sampled in an iteration.")
    group_size: Positive = Field(default=4, description="Episodes of one problem.")
    updates_per_iteration: Positive = Field(default=1, description="Optimizer steps that share an iteration's groups.")
    lr: PositiveFloat = Field(default=5e-5, description="Learning rate of AdamW.")
    entropy_weight: NonNegativeFloat = Field(default=0.0, description="Weight of the entropy bonus.")
    old_logprobs: OldLogprobs | None = Field(
        default="sampler", description="Source of pi_old, both in the log-ratio and under the importance ratio."
    )
    token_sum: bool = Field(
        default=False,
        description="Do not divide the loss by the number of tokens, as the source does; Adam does not feel the scale, "
        "grad_clip does.",
    )

    def rules(self, run: RunView) -> Iterator[str]:
        yield from super().rules(run)
        if self.loss_aggregation != "token":
            needs = f"training.loss_aggregation token, got {self.loss_aggregation}"
            yield from self.without_use("token_sum", needs=needs)


class OPDistillConfig(RKLConfig):
    """Configuration of OPDistill."""

    algo_class = "tgpo_ray.algorithms.op_distill:OPDistill"

    algorithm: str = named("OPDistill")
    training: OPDistillTrainingConfig = section(OPDistillTrainingConfig, "Batch shape, optimizer.")


class OPDistill(Taught[OPDistillConfig], GRPO[OPDistillConfig]):
    """On-policy distillation: the teacher's log-ratio as advantage, importance-weighted, no clip and no task reward.

        A_t = -c (log pi_sampler(y_t) - log pi_T(y_t));   L = -sum_t pi(y_t) / pi_sampler(y_t) A_t

    Thinking Machines, "On-Policy Distillation" (2025), and its tinker-cookbook. The sampler's own log-probabilities are
    the denominator of both the KL and the ratio. Where we differ: the token sum is divided by the number of tokens
    unless `training.token_sum`. End-of-sequence tokens are masked unless `guidance.mask_teacher_at_eos: false`.
    """

    config_class = OPDistillConfig

    def wanted(self) -> set[str]:
        return {"logprob"}

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        # the source has an unclipped ratio
        return ratio_loss(self.config, self.guidance_weight, self.policy_options(groups, clips=False))

    def denominator(self, groups: Sequence[SampledGroup]) -> float:
        return 1.0 if self.config.training.token_sum else super().denominator(groups)
