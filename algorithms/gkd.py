"""GKD: generalised knowledge distillation, on the policy's own responses and on those of a file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from tgpo_ray.config import (
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Share,
    TraceFileConfig,
    TrainingConfig,
    named,
    section,
)
from tgpo_ray.episode import ORIGIN_POLICY

from .advantages import no_advantages
from .full_vocabulary import DivergenceLoss, TeacherHead
from .taught import Taught
from .taught_config import UNMAPPED, TaughtConfig, TeacherTermConfig

if TYPE_CHECKING:
    from tgpo_ray.driver import Metrics
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss
    from tgpo_ray.teachers import TeacherGroup


class GKDTrainingConfig(TrainingConfig):
    """`training` of GKD. An iteration is one update, because the loss has no clip."""

    unread = ("clip_low", "clip_high", "entropy_weight", "old_logprobs")

    group_size: Positive = Field(default=1, description="Episodes of one problem.")
    lr: PositiveFloat = Field(default=1e-5, description="Learning rate of AdamW.")
    on_policy_share: Share = Field(
        default=0.5,
        description="Share of the iterations that train on the policy's own responses; the others: `traces`.",
    )


class DivergenceConfig(TeacherTermConfig):
    """`guidance` of GKD."""

    unread = UNMAPPED

    weight: NonNegativeFloat = Field(default=1.0, description="What the divergence is multiplied by.")
    beta: Share = Field(
        default=0.5, description="0: forward KL(teacher||policy); 1: reverse KL; between: generalised JSD."
    )


class GKDTraceConfig(TraceFileConfig):
    """`traces` of GKD. Rows longer than the runners' prompt and response together are left out."""

    shuffle: bool = Field(default=True, description="A new seeded order in each epoch.")


class GKDConfig(TaughtConfig):
    """Configuration of GKD. The authors' temperature is 0.9, for sampling and for both models' logits."""

    algo_class = "tgpo_ray.algorithms.gkd:GKD"
    group_relative = False

    algorithm: str = named("GKD")
    training: GKDTrainingConfig = section(GKDTrainingConfig, "Batch shape, optimizer.")
    guidance: DivergenceConfig = section(DivergenceConfig, "The divergence.")
    traces: GKDTraceConfig = section(GKDTraceConfig, "Prompts with responses, by a teacher or not.")

    def rules(self) -> Iterator[str]:
        yield from super().rules()
        share = self.training.on_policy_share
        if share < 1.0 and not self.traces.path:
            yield (
                f"traces.path: required with training.on_policy_share {share:g}: name a file of prompts and responses "
                "(`tgpo-ray traces` writes one), or set the share to 1.0"
            )


class GKD(Taught[GKDConfig]):
    """On-policy distillation by the generalised Jensen-Shannon divergence: L = 1/Z sum_it m_it JSD_beta(q_t || p_t).

    Agarwal et al. 2024 (2306.13649), Algorithm 1. Beta is the teacher's weight in the mixture, and beta 0 and 1 are
    defined as in TRL. The loss has no reward, and no gradient flows through sampling. An iteration is on-policy with
    probability `training.on_policy_share`. Otherwise it trains on responses of `traces` and reports no rewards.
    """

    config_class = GKDConfig

    def read_data(self, config: GKDConfig) -> None:
        from tgpo_ray.teachers import TraceData

        limit, key = config.longest_episode(), "env_runners.max_response_tokens"
        self.traces = None
        if config.training.on_policy_share < 1.0:
            self.traces = TraceData.read(config, config.traces, limit, section="traces", limit_key=key)

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        self.teacher_head = TeacherHead.of(self.config)
        super().build_scorers(teachers)

    def samples(self, iteration: int) -> bool:
        """Whether this iteration samples. A restarted run decides the same."""
        # 4 keeps this stream apart from the other uses of the seed
        draw = np.random.default_rng([self.config.seed, 4, iteration]).random()
        return self.traces is None or bool(draw < self.config.training.on_policy_share)

    def sample(self) -> Iterator[SampledGroup]:
        if self.traces is None or self.samples(self.sampling_iteration):
            return super().sample()
        training = self.config.training
        size = training.groups_per_iteration * training.group_size
        # Responses of the file count as the policy's own, so that the loss and its denominator include them.
        return iter(
            self.traces.batch(self.sampling_iteration, size, training.groups_per_iteration, origin=ORIGIN_POLICY)
        )

    def wanted(self) -> set[str]:
        return {"hidden"}

    def advantages(self, groups: Sequence[SampledGroup]) -> list[np.ndarray]:
        return no_advantages(groups)

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        return DivergenceLoss(self.teacher_head.divergence(self.config.guidance.beta, self.guidance_weight))

    def check_metrics(self, metrics: Metrics) -> Metrics:
        metrics = super().check_metrics(metrics)
        if self.samples(self.iteration):
            return metrics
        # Rows of a file were not verified, so their rewards and outcomes are placeholders.
        return {name: value for name, value in metrics.items() if not name.startswith(("reward", "outcome/", "zero_"))}
