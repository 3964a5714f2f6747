"""TrOPD: on-policy distillation in a trust region."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from tgpo_ray.config import (
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    RunView,
    Share,
    TraceFileConfig,
    named,
    section,
)

from .advantages import no_advantages
from .end_of_sequence import masked_ids
from .grpo_config import REWARD_SHAPING
from .policy_options import policy_options
from .ratio_config import RatioConfig, RatioTrainingConfig
from .taught import Taught
from .taught_config import TaughtConfig
from .teacher_ratio import TrustRegionLoss

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss
    from tgpo_ray.teachers import TeacherGroup


class TrOPDTrainingConfig(RatioTrainingConfig):
    """`training` of TrOPD: the authors' 200 iterations of 128 x 4."""

    unread = (
        "clip_low", "clip_high", "dual_clip", "loss_aggregation", "kl_weight", "kl_estimator", "kl_as", "importance",
        "importance_cap", *REWARD_SHAPING,
    )  # fmt: skip

    num_iterations: Positive = Field(default=200, description="Iterations: sample, score, update, sync weights.")
    group_size: Positive = Field(default=4, description="Episodes of one problem.")
    updates_per_iteration: Positive = Field(default=1, description="Optimizer steps that share an iteration's groups.")
    lr: PositiveFloat = Field(default=5e-6, description="Learning rate of AdamW.")
    entropy_weight: NonNegativeFloat = Field(default=0.0, description="Weight of the entropy bonus.")


class TrustConfig(RatioConfig):
    """`guidance` of TrOPD."""

    unread = ("max_unmapped_share",)

    weight: NonNegativeFloat = Field(default=1.0, description="What the term on the policy's tokens is multiplied by.")
    gate: Literal["bernoulli", "expected", "threshold"] = Field(
        default="bernoulli", description="How P_t decides: drawn, as a weight, or by `threshold`."
    )
    threshold: Share = Field(default=0.5, description="Gate threshold: least P_t that is trusted.")
    top_k: Annotated[int, Field(ge=2, le=128)] = Field(
        default=64, description="The teacher's tokens of the forward KL."
    )
    outliers: Literal["forward_kl", "mask"] = Field(
        default="forward_kl", description="What becomes of a token that the gate refuses."
    )
    prefix_weight: NonNegativeFloat = Field(default=1e-3, description="Weight of the likelihood of teacher prefixes.")
    prefix_share: Share = Field(
        default=0.0,
        description="Part of a trace that a response begins with at first; falls to 0 by a half cosine. Above 0 needs "
        "`traces.path`.",
    )

    def rules(self, run: RunView) -> Iterator[str]:
        yield from super().rules(run)
        if self.gate != "threshold":
            yield from self.without_use("threshold", needs=f"guidance.gate threshold, got {self.gate}")
        if self.outliers == "mask":
            yield from self.without_use("top_k", needs="guidance.outliers forward_kl, got mask")


class TrOPDConfig(TaughtConfig):
    """Configuration of TrOPD."""

    algo_class = "tgpo_ray.algorithms.tropd:TrOPD"
    group_relative = False

    algorithm: str = named("TrOPD")
    training: TrOPDTrainingConfig = section(TrOPDTrainingConfig, "Batch shape, optimizer.")
    guidance: TrustConfig = section(TrustConfig, "Gate, outliers, prefixes.")
    traces: TraceFileConfig = section(TraceFileConfig, "Where prefixes come from: `tgpo-ray traces` writes them.")

    def rules(self) -> Iterator[str]:
        yield from super().rules()
        share = self.guidance.prefix_share
        if share > 0.0 and self.env_runners.weight_update == "in_flight":
            yield (
                f"env_runners.weight_update: in_flight needs guidance.prefix_share 0, got {share:g}: the prefixes "
                "of an iteration end with it, and in flight iterations overlap; write between_batches"
            )


class TrOPD(Taught[TrOPDConfig]):
    """Trust-region on-policy distillation: reverse KL on tokens that the gate trusts, forward KL on the others.

    TrOPD (2606.01249). `TrustRegionLoss` has the loss and our choices where the paper is silent. A response may begin
    with the first tokens of a teacher's trace of its problem, which the policy continues. Their part of the trace falls
    by a half cosine to 0: prefix_share (1 + cos(pi t / n)) / 2 at iteration t of n.
    """

    config_class = TrOPDConfig

    def read_data(self, config: TrOPDConfig) -> None:
        from tgpo_ray.teachers import TraceShelf

        self.traces = TraceShelf(config, config.traces) if config.guidance.prefix_share > 0.0 else None

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        super().build_scorers(teachers)
        if self.traces is not None:
            self._own(self.traces.start())

    @property
    def prefix_share(self) -> float:
        """Part of a trace that this iteration's responses begin with."""
        progress = min(1.0, self.sampling_iteration / self.num_iterations)
        return self.config.guidance.prefix_share * 0.5 * (1.0 + math.cos(math.pi * progress))

    def sample(self) -> Iterator[SampledGroup]:
        """The iteration's groups, whose responses begin with a teacher's prefix."""
        self.env_runners.prefixes = None if self.traces is None else self.traces.prefixes(self.prefix_share)
        yield from super().sample()
        self.env_runners.prefixes = None  # evaluation has no prefixes

    def wanted(self) -> set[str]:
        return {"logprob", f"topk:{self.config.guidance.top_k}"}

    def advantages(self, groups: Sequence[SampledGroup]) -> list[np.ndarray]:
        return no_advantages(groups)

    def denominator(self, groups: Sequence[SampledGroup]) -> float:
        """The number of all trained tokens, those of teacher prefixes included."""
        return float(sum(info.num_response_tokens for group in groups for info in group.infos))

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        guidance = self.config.guidance
        return TrustRegionLoss(
            **policy_options(self.config.training),
            gate=guidance.gate,
            threshold=guidance.threshold,
            teacher_weight=self.guidance_weight,
            prefix_weight=guidance.prefix_weight,
            outlier_weight=0.0 if guidance.outliers == "mask" else 1.0,
            eos_ids=masked_ids(self.config.model, guidance),
        )
