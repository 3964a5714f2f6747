"""MiniLLM: the sequence-level reverse KL, split into the present step and the steps after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from pydantic import Field
from torch import Tensor

from tgpo_ray.config import (
    NonNegativeFloat,
    OldLogprobs,
    PositiveFloat,
    Share,
    named,
    section,
)
from tgpo_ray.driver import GroupTokens, placed, with_values
from tgpo_ray.kernels import Divergence, TokenRows

from .full_vocabulary import HIDDEN, TeacherHead, divergence_metrics
from .grpo import GRPO
from .grpo_config import REWARD_SHAPING, GRPOFamilyConfig
from .process_advantages import whitened
from .ratio_config import RatioTrainingConfig
from .taught import Taught
from .taught_config import UNMAPPED, TaughtConfig, TeacherTermConfig
from .teacher_ratio import UNREADABLE_LOGPROB
from .token_advantages import SCORER, TokenAdvantageLoss
from .token_losses import Metrics

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss
    from tgpo_ray.teachers import TeacherGroup


class MiniLLMTrainingConfig(RatioTrainingConfig):
    """`training` of MiniLLM. The sampler's log-probs are part of the reward."""

    unread = REWARD_SHAPING

    entropy_weight: NonNegativeFloat = Field(default=0.0, description="Weight of the entropy bonus.")
    old_logprobs: OldLogprobs | None = Field(default="sampler", description="Source of pi_old, and of the reward.")


class LongTermConfig(TeacherTermConfig):
    """`guidance` of MiniLLM."""

    unread = UNMAPPED

    weight: NonNegativeFloat = Field(default=1.0, description="What the long-term part is multiplied by.")
    single_step_weight: NonNegativeFloat = Field(default=1.0, description="Weight of the reverse KL of each position.")
    discount: Share = Field(default=1.0, description="gamma of the returns.")
    reward_clip: PositiveFloat = Field(default=100.0, description="A token's log-ratio is cut to +- this.")
    length_normalization: bool = Field(default=True, description="Divide each return by the tokens that it sums.")


class MiniLLMConfig(GRPOFamilyConfig, TaughtConfig):
    """Configuration of MiniLLM."""

    algo_class = "tgpo_ray.algorithms.minillm:MiniLLM"
    group_relative = False  # returns are whitened over the batch, not within a group

    algorithm: str = named("MiniLLM")
    training: MiniLLMTrainingConfig = section(MiniLLMTrainingConfig, "Batch shape, optimizer, clip.")
    guidance: LongTermConfig = section(LongTermConfig, "The two parts of the reverse KL.")


@dataclass(frozen=True)
class MiniLLMLoss(TokenAdvantageLoss):
    """PPO's clipped loss of the long-term advantages, and the exact reverse KL of each position."""

    against: Divergence | None = None

    fields: ClassVar[tuple[str, ...]] = (*TokenAdvantageLoss.fields, HIDDEN)

    @property
    def divergence(self) -> Divergence | None:
        return self.against

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Metrics:
        return super().metrics(logprobs, entropy, rows) | divergence_metrics(rows)


class MiniLLM(Taught[MiniLLMConfig], GRPO[MiniLLMConfig]):
    """Reverse KL by policy gradient, with long-term returns of the log-ratio and an exact gradient of each step.

        r_t = log q(y_t) - log p_old(y_t);   R_t = sum_{s > t} gamma^(s - t - 1) r_s / (T - t - 1);   A = whiten(R)
        L = 1/Z sum_it m_it [ clipped(ratio, A_t) + single_step_weight KL(p_t || q_t) ]

    Gu et al. 2024 (2306.08543), Eq. 3 to 6. Where we differ: there is no sampling from a mixture with the teacher,
    because two engines cannot mix their distributions at each decoded token. There is no pre-training loss. Whitening
    leaves out the padding, which the authors include. R_t starts after t, because the single step is exact.
    """

    config_class = MiniLLMConfig

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        self.teacher_head = TeacherHead.of(self.config)
        super().build_scorers(teachers)

    def wanted(self) -> set[str]:
        return {"hidden", "logprob"}

    @property
    def needs_batch(self) -> bool:
        return True

    def score_batch(self, groups: list[SampledGroup]) -> list[SampledGroup]:
        """The groups with long-term advantages, which are whitened over all of them."""
        guidance = self.config.guidance
        compute = partial(
            long_term_advantages,
            weight=self.guidance_weight,
            discount=guidance.discount,
            reward_clip=guidance.reward_clip,
            length_normalization=guidance.length_normalization,
        )
        return with_values(groups, compute, SCORER)

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        # beta 1 is the reverse KL; the single step is a mean over tokens whatever `loss_aggregation` is
        weight = self.config.guidance.single_step_weight * self.per_token(groups)
        return MiniLLMLoss(**self.policy_options(groups), against=self.teacher_head.divergence(1.0, weight))


def long_term_advantages(
    groups: Sequence[GroupTokens], *, weight: float, discount: float, reward_clip: float, length_normalization: bool
) -> list[list[np.ndarray]]:
    """(T,) for each episode, whitened over the batch's tokens; 0 on tokens that the policy did not write."""
    returns = [
        [
            future_returns(log_ratio(group, i, reward_clip)[mask], discount, length_normalization=length_normalization)
            for i, mask in enumerate(group.masks)
        ]
        for group in groups
    ]
    # The weight comes after whitening, which would divide it out.
    weighted = [[weight * values for values in group] for group in whitened(returns)]
    return placed(groups, weighted)


def log_ratio(group: GroupTokens, place: int, clip: float) -> np.ndarray:
    """(T,) log q(y_t) - log p_old(y_t), cut to +- clip; 0 where the teacher gave no probability."""
    episode, teacher = group.episodes[place], group.guidance[place].get("teacher")
    if teacher is None or teacher.teacher_logprobs is None or episode.old_logprobs is None:
        return np.zeros(len(episode.response_ids))
    known = teacher.teacher_logprobs != UNREADABLE_LOGPROB  # (T,)
    return np.where(known, np.clip(teacher.teacher_logprobs - episode.old_logprobs, -clip, clip), 0.0)


def future_returns(rewards: np.ndarray, discount: float, *, length_normalization: bool) -> np.ndarray:
    """(T,) sum_{s > t} discount^(s - t - 1) r_s, with `length_normalization` over the number of its terms."""
    returns = np.zeros(len(rewards))
    for t in range(len(rewards) - 2, -1, -1):  # backwards, so that each return extends the next one
        returns[t] = rewards[t + 1] + discount * returns[t + 1]
    terms = np.maximum(1, np.arange(len(rewards))[::-1])  # (T,); the last return has no term and stays 0
    return returns / terms if length_normalization else returns
