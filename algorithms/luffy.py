"""LUFFY: one verified teacher trace in each group, with more weight on its unlikely tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tgpo_ray.config import TraceFileConfig, named, section
from tgpo_ray.episode import ORIGIN_POLICY, ORIGIN_TEACHER
from tgpo_ray.kernels import TokenRows

from .advantages import mean_centered
from .grpo import GRPO
from .grpo_config import GRPOFamilyConfig, GRPOTrainingConfig
from .policy_options import policy_options
from .token_losses import PolicyLoss, masked_sum

if TYPE_CHECKING:
    from tgpo_ray.driver import Metrics
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss
    from tgpo_ray.teachers import TeacherGroup

    from .token_losses import Metrics as LossMetrics


class LUFFYTrainingConfig(GRPOTrainingConfig):
    """`training` of LUFFY. The authors removed the clip and the division by length."""

    ratio_clip: bool = Field(default=False, description="Apply clip_low and clip_high.")
    loss_aggregation: Literal["token", "sequence", "constant"] = Field(
        default="constant", description="constant: each response's sum over max_response_tokens, then the mean."
    )
    trace_loss: Literal["shaped", "nll"] = Field(
        default="shaped",
        description="shaped: f(p) times the advantage; nll: supervised, whatever the advantage (RL + SFT).",
    )
    trace_weight: float = Field(default=1.0, ge=0, description="Weight of the trace's part of the loss.")
    shaping_gamma: float = Field(default=0.1, gt=0, description="gamma of f(x) = x / (x + gamma).")


class LUFFYConfig(GRPOFamilyConfig):
    """Configuration of LUFFY. `training.group_size` counts the trace, so 8 means 7 rollouts and one trace."""

    algo_class = "tgpo_ray.algorithms.luffy:LUFFY"

    algorithm: str = named("LUFFY")
    training: LUFFYTrainingConfig = section(LUFFYTrainingConfig, "Batch shape, optimizer, policy loss.")
    traces: TraceFileConfig = section(TraceFileConfig, "Verified teacher responses; `tgpo-ray traces` writes them.")


@dataclass(frozen=True)
class LUFFYLoss(PolicyLoss):
    """The policy loss on rollouts, with the policy's shaped probability in place of the ratio on trace tokens.

        L_t = -A_i f(pi(y_t)),   f(x) = x / (x + gamma)          trace_loss "shaped"
        L_t = -log pi(y_t)                                       trace_loss "nll"

    LUFFY (2504.14945), Eq. 6 and 7. The teacher's own probabilities are taken as 1, so none are needed. The gradient's
    weight gamma p / (p + gamma)^2 is largest at p = gamma, so unlikely tokens count more than under f(x) = x.
    """

    trace_loss: Literal["shaped", "nll"] = "shaped"
    trace_weight: float = 1.0
    shaping_gamma: float = 0.1

    fields: ClassVar[tuple[str, ...]] = ("episode.origin",)
    trained_origins: ClassVar[tuple[int, ...]] = (ORIGIN_POLICY, ORIGIN_TEACHER)

    def parts(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> dict[str, Tensor]:
        """The parts of `PolicyLoss`, and `trace`, which replaces `policy` on the tokens of traces."""
        parts = super().parts(logprobs, entropy, rows)
        written_by_teacher = rows.extra["episode.origin"] == ORIGIN_TEACHER  # (N,)
        trace = rows.mask * self.weighed(self.trace_weight * self.trace_term(logprobs[:, 0], rows), rows)
        parts["trace"] = torch.where(written_by_teacher, trace, 0.0)
        parts["policy"] = torch.where(written_by_teacher, 0.0, parts["policy"])
        return parts

    def trace_term(self, logprobs: Tensor, rows: TokenRows) -> Tensor:
        """(N,) the loss of a trace's tokens, before weight and mask."""
        if self.trace_loss == "nll":
            return -logprobs
        probability = logprobs.exp()  # with gradient: f(pi) stands where the ratio was
        return -rows.advantages * probability / (probability + self.shaping_gamma)

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> LossMetrics:
        traced = rows.mask * (rows.extra["episode.origin"] == ORIGIN_TEACHER)
        # Clip fraction and ratio would mean nothing on tokens that the policy did not sample.
        on_policy = rows.replace(
            target_mask=rows.target_mask * (rows.extra["episode.origin"] == ORIGIN_POLICY)[:, None]
        )
        return super().metrics(logprobs, entropy, on_policy) | {
            "loss/trace_nll": masked_sum(-logprobs[:, 0], traced),
            "guidance/coverage": (traced.sum(), rows.mask.sum()),
        }


class LUFFY(GRPO[LUFFYConfig]):
    """Mixed-policy optimization with policy shaping.

        A_i = R_i - mean over the G - 1 rollouts and the trace;   L = 1/(B L_max) sum_it m_it L_t - entropy_weight H

    LUFFY (2504.14945). Where we differ from its code: it does not divide the sum over L_max by the number of
    responses, so its scale follows the micro-batch. Here the sum is divided. Rewards in the metrics are those of the
    rollouts, because the trace is always right and would make the policy look better. A problem without a trace trains
    on its rollouts.
    """

    config_class = LUFFYConfig

    def read_data(self, config: LUFFYConfig) -> None:
        from tgpo_ray.teachers import TraceShelf

        self.traces = TraceShelf(config, config.traces)

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        super().build_scorers(teachers)
        self._own(self.traces.start())  # `stop` ends it with the other actors

    @property
    def rollouts_per_group(self) -> int:
        return self.config.training.group_size - 1  # the trace is one of the group

    def complete(self, group: SampledGroup) -> SampledGroup:
        """The group with its problem's trace, where there is one."""
        return self.traces.joined(group)

    def check_metrics(self, metrics: Metrics) -> Metrics:
        """The metrics with `guidance/traced_groups`, the share of the groups whose prompt had a trace."""
        return super().check_metrics(metrics) | {"guidance/traced_groups": self.traces.reset_counts()}

    def advantages(self, groups: Sequence[SampledGroup]) -> list[np.ndarray]:
        return [mean_centered(self.rewards(group)) for group in groups]  # (G,) each, the trace's included

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        training = self.config.training
        return LUFFYLoss(
            **policy_options(training, clips=training.ratio_clip),
            trace_loss=training.trace_loss,
            trace_weight=training.trace_weight,
            shaping_gamma=training.shaping_gamma,
        )
