"""LUFFY: one verified teacher trace in each group, with more weight on its unlikely tokens; or RL + SFT loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from tgpo_ray.config import RunView, TraceFileConfig, named, section
from tgpo_ray.episode import ORIGIN_POLICY, ORIGIN_TEACHER
from tgpo_ray.kernels import TokenRows

from .advantages import compared_with
from .grpo import GRPO
from .grpo_config import GRPOFamilyConfig, GRPOTrainingConfig
from .joined_episodes import is_joined, num_joined_tokens, rollouts
from .token_losses import PolicyLoss, masked_sum

if TYPE_CHECKING:
    from tgpo_ray.driver import Metrics
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss
    from tgpo_ray.teachers import TeacherGroup

    from .token_losses import Metrics as LossMetrics


class LUFFYTrainingConfig(GRPOTrainingConfig):
    """`training` of LUFFY. The authors removed the clip and the division by length."""

    ratio_clip: bool = Field(default=False, description="Apply clip_low, clip_high and dual_clip.")
    loss_aggregation: Literal["token", "sequence", "constant"] = Field(
        default="constant", description="constant: each response's sum over max_response_tokens, then the mean."
    )
    trace_loss: Literal["shaped", "nll"] = Field(
        default="shaped",
        description="shaped: f(p) times the advantage; nll: supervised, whatever the advantage, as a mean over the "
        "traces' tokens beside the policy loss of the rollouts (RL + SFT).",
    )
    trace_weight: float = Field(default=1.0, ge=0, description="Weight of the trace's part of the loss.")
    trace_in_mean: bool = Field(
        default=True, description="The trace's reward counts in the group's mean and deviation; false: rollouts only."
    )
    standardize_advantages: bool = Field(default=False, description="Divide advantages by the group's deviation.")
    shaping_gamma: float = Field(default=0.1, gt=0, description="gamma of f(x) = x / (x + gamma).")

    def rules(self, run: RunView) -> Iterator[str]:
        yield from super().rules(run)
        if not self.ratio_clip:
            clip = ("clip_low", "clip_high", "dual_clip")
            yield from self.without_use(*clip, needs="training.ratio_clip true, got false")
        if self.trace_loss == "nll":
            yield from self.without_use("shaping_gamma", needs="training.trace_loss shaped, got nll")
        if self.trace_in_mean:
            return
        if self.group_size < 3:
            yield (
                f"training.group_size: must be >= 3 with trace_in_mean false, got {self.group_size}: one rollout "
                "beside the trace has nothing to compare with"
            )
        if self.standardize_advantages and self.trace_loss == "shaped":
            yield (
                "training.standardize_advantages: needs trace_in_mean true or trace_loss nll, got false and shaped: "
                "rollouts that are all wrong have deviation 0, and the trace's advantage would be a million"
            )


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
        L_t = -log pi(y_t), and no other term                    trace_loss "nll"

    LUFFY (2504.14945), Eq. 6 and 7. The teacher's own probabilities are taken as 1, so none are needed. The gradient's
    weight gamma p / (p + gamma)^2 is largest at p = gamma, so unlikely tokens count more than under f(x) = x.
    """

    trace_loss: Literal["shaped", "nll"] = "shaped"
    trace_weight: float = 1.0
    shaping_gamma: float = 0.1

    fields: ClassVar[tuple[str, ...]] = ("episode.origin",)
    trained_origins: ClassVar[tuple[int, ...]] = (ORIGIN_POLICY, ORIGIN_TEACHER)

    def parts(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> dict[str, Tensor]:
        """The parts of `PolicyLoss`, and `trace`, which replaces `policy` on traces, with `nll` all the others too."""
        parts = super().parts(logprobs, entropy, rows)
        written_by_teacher = rows.extra["episode.origin"] == ORIGIN_TEACHER  # (N,)
        for name in parts if self.trace_loss == "nll" else ("policy",):
            parts[name] = torch.where(written_by_teacher, 0.0, parts[name])
        trace = rows.mask * self.trace_weight * self.trace_term(logprobs[:, 0], rows)
        return parts | {"trace": torch.where(written_by_teacher, trace, 0.0)}

    def trace_term(self, logprobs: Tensor, rows: TokenRows) -> Tensor:
        """(N,) the loss of a trace's tokens, before weight and mask. Likelihoods are a mean over all traces' tokens."""
        if self.trace_loss == "nll":
            return -logprobs
        probability = logprobs.exp()  # with gradient: f(pi) stands where the ratio was
        return self.weighed(-rows.advantages * probability / (probability + self.shaping_gamma), rows)

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

    LUFFY (2504.14945). H is the mean entropy of all trained tokens. Where we differ from its code: it does not divide
    the sum over L_max by the number of responses, so its scale follows the micro-batch. Here the sum is divided.
    Rewards in the metrics are those of the rollouts, because the trace is always right and would make the policy look
    better. A problem without a trace trains on its rollouts.

    With `trace_loss: nll` it is RL + SFT loss: L = L_GRPO of the rollouts alone + trace_weight * the mean negative
    log-likelihood of the traces' tokens. `trace_in_mean: false, standardize_advantages: true` makes L_GRPO that of
    GRPO on G - 1 rollouts, so that it differs from TGPO only in the text that the teacher's tokens follow.
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
        """(G,) for each group, the trace's included. A supervised trace has none, whatever its reward."""
        training, found = self.config.training, []
        for group in groups:
            of_traces = np.array([is_joined(info) for info in group.infos])
            counted = ~of_traces | training.trace_in_mean
            advantages = compared_with(self.rewards(group), counted, standardized=training.standardize_advantages)
            found.append(np.where(of_traces & self.supervises, 0.0, advantages))
        return found

    @property
    def supervises(self) -> bool:
        """Whether traces are supervised beside the policy loss, which then knows nothing of them."""
        return self.config.training.trace_loss == "nll"

    @property
    def needs_batch(self) -> bool:
        return super().needs_batch or self.supervises

    def num_trained_tokens(self, groups: Sequence[SampledGroup]) -> int:
        """The tokens of the policy loss: the policy's, and those of shaped traces."""
        return super().num_trained_tokens(groups) + (0 if self.supervises else num_joined_tokens(groups))

    def denominator(self, groups: Sequence[SampledGroup]) -> float:
        """That of GRPO, where shaped traces count as responses; supervised ones have a mean of their own."""
        if self.config.training.loss_aggregation == "token":
            return float(self.num_trained_tokens(groups))
        return super().denominator([rollouts(group) for group in groups] if self.supervises else groups)

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        training, weight = self.config.training, self.config.training.trace_weight
        if self.supervises:  # takes the step's denominator out, and divides by the traces' tokens
            weight *= self.denominator(groups) / max(1, num_joined_tokens(groups))
        return LUFFYLoss(
            **self.policy_options(groups, clips=training.ratio_clip),
            trace_loss=training.trace_loss,
            trace_weight=weight,
            shaping_gamma=training.shaping_gamma,
        )
