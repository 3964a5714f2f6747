"""KDRL: GRPO and knowledge distillation on the policy's own tokens in one loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from tgpo_ray.config import NonNegativeFloat, RunView, named, section

from .end_of_sequence import masked_ids
from .grpo import GRPO
from .grpo_config import GRPOFamilyConfig
from .ratio_config import RatioConfig, RatioTrainingConfig
from .taught import Taught
from .taught_config import TaughtConfig
from .teacher_ratio import KDRLLoss, TeacherRatioLoss

if TYPE_CHECKING:
    from tgpo_ray.episode import EpisodeInfo, SampledGroup
    from tgpo_ray.kernels import TokenLoss


class KDRLTermConfig(RatioConfig):
    """`guidance` of KDRL. The source's annealed run has weight 5e-3, decay 5e-5 and minimum 1e-3."""

    weight: NonNegativeFloat = Field(default=2e-3, description="beta at the first iteration.")
    style: Literal["loss", "advantage"] = Field(
        default="loss", description="loss: a KL estimate beside the policy loss; advantage: the log-ratio added to A."
    )
    kl_estimator: Literal["k2", "k3"] = Field(
        default="k2", description="Style loss: k2 has the gradient of the reverse KL, k3 that of the forward KL."
    )
    only: Literal["all", "incorrect_responses", "incorrect_groups"] = Field(
        default="all", description="Which responses are distilled: all, those that are wrong, or groups wholly wrong."
    )
    denominator: Literal["all", "kept"] = Field(
        default="all",
        description="The distillation term is a mean over all tokens, or over those of `only`; with style advantage a "
        "part of the policy loss, over all responses or over those.",
    )

    def rules(self, run: RunView) -> Iterator[str]:
        yield from super().rules(run)
        if self.style == "advantage":
            yield from self.without_use("kl_estimator", needs="guidance.style loss, got advantage")


class KDRLTrainingConfig(RatioTrainingConfig):
    """`training` of GRPO without the entropy bonus."""

    entropy_weight: NonNegativeFloat = Field(default=0.0, description="Weight of the entropy bonus.")


class KDRLConfig(GRPOFamilyConfig, TaughtConfig):
    """Configuration of KDRL."""

    algo_class = "tgpo_ray.algorithms.kdrl:KDRL"

    algorithm: str = named("KDRL")
    training: KDRLTrainingConfig = section(KDRLTrainingConfig, "Batch shape, optimizer, policy loss.")
    guidance: KDRLTermConfig = section(KDRLTermConfig, "The distillation term.")


class KDRL(Taught[KDRLConfig], GRPO[KDRLConfig]):
    """Knowledge distillation and reinforcement learning in one loss: L = L_GRPO + beta_t mean_t KL estimate.

    KDRL (2506.02208). It leaves two points open. Here the term is divided by all tokens of the batch unless
    `guidance.denominator: kept`, whatever `loss_aggregation` is, and end-of-sequence tokens are masked. Groups that
    `only` leaves out are not sent to the teacher. The KDRL row of Teacher-Guided Policy Optimization comes from code
    with another sign or estimator.
    """

    config_class = KDRLConfig

    def wanted(self) -> set[str]:
        return {"logprob"}

    def asks_teacher(self, group: SampledGroup) -> bool:
        return self._num_distilled_tokens([group]) > 0

    def _num_distilled_tokens(self, groups: Sequence[SampledGroup]) -> int:
        """The number of the policy's tokens in the responses that are distilled."""
        return sum(info.num_policy_tokens for group in groups for info in group.infos if self._distils(group, info))

    def _distils(self, group: SampledGroup, info: EpisodeInfo) -> bool:
        only = self.config.guidance.only
        if only == "incorrect_groups":  # one right response spares the whole group
            return not any(other.outcome == "correct" for other in group.infos)
        return only == "all" or info.outcome != "correct"

    @property
    def needs_batch(self) -> bool:
        return self.config.guidance.denominator == "kept" or self.config.training.loss_aggregation != "token"

    def _share_of_kept(self, groups: Sequence[SampledGroup]) -> float:
        """All units of the policy loss over the distilled ones: tokens under a token mean, else responses."""
        if self.config.training.loss_aggregation == "token":
            return self.num_trained_tokens(groups) / max(1, self._num_distilled_tokens(groups))
        distilled = sum(self._distils(group, info) for group in groups for info in group.infos)
        return sum(len(group.infos) for group in groups) / max(1, distilled)

    def _term_weight(self, groups: Sequence[SampledGroup]) -> float:
        """beta_t times what makes the term, under the step's denominator, a mean over what `denominator` says."""
        guidance, weight = self.config.guidance, self.guidance_weight
        if guidance.style == "advantage":  # the term is in the policy loss and is aggregated as that is
            return weight * self._share_of_kept(groups) if guidance.denominator == "kept" else weight
        if guidance.denominator == "kept":
            return weight * self.denominator(groups) / max(1, self._num_distilled_tokens(groups))
        return weight * self.per_token(groups)

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        guidance, weight, options = self.config.guidance, self._term_weight(groups), self.policy_options(groups)
        only_incorrect = guidance.only == "incorrect_responses"
        eos_ids = masked_ids(self.config.model, guidance)
        if guidance.style == "advantage":
            return TeacherRatioLoss(
                **options, only_incorrect=only_incorrect, eos_ids=eos_ids, reward_weight=1.0, ratio_weight=weight
            )
        return KDRLLoss(
            **options,
            only_incorrect=only_incorrect,
            eos_ids=eos_ids,
            distillation_weight=weight,
            distillation_estimator=guidance.kl_estimator,
        )
