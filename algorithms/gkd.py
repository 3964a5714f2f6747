"""GKD: generalised knowledge distillation, on the policy's own responses and on given ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np
from pydantic import Field

from tgpo_ray.config import (
    AlgorithmConfig,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    RunView,
    Share,
    TeachersConfig,
    TeacherTermConfig,
    TraceFileConfig,
    TrainingConfig,
)
from tgpo_ray.episode import ORIGIN_POLICY

from .full_vocabulary import DivergenceLoss, FullVocabularyAlgorithm
from .tgpo import num_tokens

if TYPE_CHECKING:
    from tgpo_ray.driver import Metrics
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss


class GKDTrainingConfig(TrainingConfig):
    """`training` of GKD: one update an iteration, since nothing in it is clipped."""

    unread: ClassVar[tuple[str, ...]] = ("clip_low", "clip_high", "entropy_weight", "old_logprobs")

    group_size: Positive = Field(default=1, description="Episodes of one problem.")
    lr: PositiveFloat = Field(default=1e-5, description="Learning rate of AdamW.")
    on_policy_share: Share = Field(
        default=0.5,
        description="Share of the iterations that train on the policy's own responses; the others: `traces`.",
    )

    def problems(self, config: RunView) -> Iterator[str]:
        yield from super().problems(config)
        traces: Any = getattr(config, "traces", None)
        if self.on_policy_share < 1.0 and not (traces and traces.path):
            yield (
                f"traces.path: required with training.on_policy_share {self.on_policy_share:g}: name a file of prompts "
                "and responses (`tgpo-ray traces` writes one), or set the share to 1.0"
            )


class DivergenceConfig(TeacherTermConfig):
    """`guidance` of GKD."""

    weight: NonNegativeFloat = Field(default=1.0, description="What the divergence is multiplied by.")
    beta: Share = Field(
        default=0.5, description="0: forward KL(teacher||policy); 1: reverse KL; between: generalised JSD."
    )


class GKDTraceConfig(TraceFileConfig):
    """`traces` of GKD. Rows longer than the runners' prompt and response together are left out."""

    shuffle: bool = Field(default=True, description="A new seeded order in each epoch.")


class GKDConfig(AlgorithmConfig):
    """Configuration of GKD. The authors' temperature is 0.9, for sampling and for both models' logits."""

    algo_class: ClassVar[type | str | None] = "tgpo_ray.algorithms.gkd:GKD"
    needs_teacher: ClassVar[bool] = True
    group_relative: ClassVar[bool] = False

    algorithm: str = Field(default="GKD", description="GKD, or an import path as my_pkg.mod:MyConfig.")
    teachers: TeachersConfig = Field(
        default_factory=TeachersConfig, description="The teacher, called default; `teacher` is a map of one."
    )
    training: GKDTrainingConfig = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=GKDTrainingConfig, description="Batch shape, optimizer."
    )
    guidance: DivergenceConfig = Field(default_factory=DivergenceConfig, description="The divergence.")
    traces: GKDTraceConfig = Field(
        default_factory=GKDTraceConfig, description="Prompts with responses, by a teacher or not."
    )


class GKD(FullVocabularyAlgorithm):
    """On-policy distillation by the generalised Jensen-Shannon divergence: L = 1/Z sum_it m_it JSD_beta(q_t || p_t).

    Agarwal et al. 2024 (2306.13649), Algorithm 1; beta on the teacher, the ends as TRL defines them. No reward is
    trained on and no gradient flows through sampling. An iteration is on-policy with probability
    `training.on_policy_share`, else its responses are those of `traces`; its rewards are then not reported.
    """

    config_class = GKDConfig

    def __init__(self, config: AlgorithmConfig, **kwargs: Any) -> None:
        from tgpo_ray.teachers import TraceData

        config.check()
        runners, training = config.env_runners, cast(GKDTrainingConfig, config.training)
        limit = runners.max_prompt_tokens + runners.max_response_tokens
        self.given = None
        if training.on_policy_share < 1.0:
            traces, key = cast(GKDConfig, config).traces, "env_runners.max_response_tokens"
            self.given = TraceData.read(config, traces, limit, section="traces", limit_key=key)
        super().__init__(config, **kwargs)

    @property
    def on_policy(self) -> bool:
        """Whether this iteration samples; the same after a restart."""
        draw = np.random.default_rng([self.config.seed, 4, self.iteration]).random()
        return self.given is None or bool(draw < self.config.training.on_policy_share)

    def sample(self) -> Iterator[SampledGroup]:
        if self.on_policy or self.given is None:
            return super().sample()
        training = self.config.training
        size = training.groups_per_iteration * training.group_size
        # given responses count as the policy's own: they are trained on, and in the denominator
        return iter(self.given.batch(self.iteration, size, training.groups_per_iteration, origin=ORIGIN_POLICY))

    def wanted(self) -> set[str]:
        return {"hidden"}

    def advantages(self, groups: Sequence[SampledGroup]) -> list[np.ndarray]:
        return [np.zeros(len(group.infos)) for group in groups]

    def denominator(self, groups: Sequence[SampledGroup]) -> float:
        """Z, the trained tokens: there is no other aggregation."""
        return float(num_tokens(groups))

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        return DivergenceLoss(self.against(self.config.guidance.beta, self.guidance_weight))

    def check_metrics(self, metrics: Metrics) -> Metrics:
        metrics = super().check_metrics(metrics)
        if self.on_policy:
            return metrics
        return {name: value for name, value in metrics.items() if not name.startswith(("reward", "outcome/", "zero_"))}
