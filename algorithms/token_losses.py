"""The token-level losses of SFT, GRPO and TGPO: what `tgpo_ray.kernels` calls for each chunk of response tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tgpo_ray.guidance.loss import guidance_loss
from tgpo_ray.kernels import TokenLoss, TokenRows

from .losses import KLEstimator, clipped_policy_loss, clipped_tokens, kl_estimate, kl_k3, negative_log_likelihood

Metrics = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class SFTLoss(TokenLoss):
    """-log pi(y_t) on every token whose `mask` is 1."""

    track_entropy: bool = False

    trained_origins: ClassVar[tuple[int, ...]] = (1, 2)  # traces are the teacher's writing

    @property
    def needs_entropy(self) -> bool:
        return self.track_entropy

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        return rows.mask * negative_log_likelihood(logprobs[:, 0])

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Metrics:
        metrics = {"loss/sft": masked_sum(-logprobs[:, 0], rows.mask)}
        if entropy is not None:
            metrics["policy/entropy"] = masked_sum(entropy, rows.mask)
        return metrics


@dataclass(frozen=True)
class PolicyLoss(TokenLoss):
    """GRPO: the clipped policy loss and an entropy bonus.

        L_t = m_t [ clipped_policy_loss(...) - entropy_weight H_t ]

    The GRPO++ of Teacher-Guided Policy Optimization: no KL, token mean (by the step's denominator).
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    entropy_weight: float = 0.0
    track_entropy: bool = False

    @property
    def needs_entropy(self) -> bool:
        return self.track_entropy or self.entropy_weight != 0.0

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        losses = clipped_policy_loss(
            logprobs[:, 0], rows.old_logprobs, rows.advantages, self.clip_low, self.clip_high, self.dual_clip
        )
        if entropy is not None and self.entropy_weight != 0.0:
            losses = losses - self.entropy_weight * entropy
        return rows.mask * losses

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Metrics:
        sampled, mask, old = logprobs[:, 0], rows.mask, rows.old_logprobs
        clipped = clipped_tokens(sampled, old, rows.advantages, self.clip_low, self.clip_high)
        metrics = {"policy/clip_fraction": masked_sum(clipped, mask)}
        if old is not None:
            metrics["policy/old_kl"] = masked_sum(kl_k3(old, sampled), mask)  # KL(pi_old || pi), sampled by pi_old
            metrics["policy/ratio_deviation"] = masked_sum((torch.exp(sampled - old) - 1.0).abs(), mask)
        if entropy is not None:
            metrics["policy/entropy"] = masked_sum(entropy, mask)
        return metrics


@dataclass(frozen=True)
class ReferencePolicyLoss(PolicyLoss):
    """`PolicyLoss` plus `kl_weight` times a KL estimate to a frozen reference model, a scorer named "reference".

    DeepSeekMath (2402.03300), Eq. 3: k3 with weight 0.04.
    """

    kl_weight: float = 0.04
    kl_estimator: KLEstimator = "k3"

    fields: ClassVar[tuple[str, ...]] = ("reference.teacher_logprobs",)

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        reference = rows.extra["reference.teacher_logprobs"]
        penalty = self.kl_weight * kl_estimate(logprobs[:, 0], reference, self.kl_estimator)
        return super().__call__(logprobs, entropy, rows) + rows.mask * penalty

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Metrics:
        reference = rows.extra["reference.teacher_logprobs"]
        kl = {"policy/reference_kl": masked_sum(kl_k3(logprobs[:, 0], reference), rows.mask)}
        return super().metrics(logprobs, entropy, rows) | kl


@dataclass(frozen=True)
class GuidedPolicyLoss(PolicyLoss):
    """TGPO: `PolicyLoss` plus guidance towards the teacher's tokens on the policy's own responses.

        L_t = L_pg,t + guidance_weight m^T_t [ -log pi(y^T_t | x, y_<t) ]

    Teacher-Guided Policy Optimization, Eq. 4 and 6, with the guidance subtracted from the objective (the paper prints
    the other sign, its code does this). Not multiplied by ratio or advantage, not clipped, on all guided tokens of all
    responses. `normalization="sequence"` is Eq. 3 to the letter: each response weighs the same, by the factor
    mean_length / |y_i|, where `mean_length` is Z / B of the whole batch; "token" is what the authors ran.
    """

    guidance_weight: float = 2e-3
    normalization: Literal["token", "sequence"] = "token"
    mean_length: float | None = None

    targets: ClassVar[tuple[str, ...]] = ("teacher.teacher_ids",)

    def __post_init__(self) -> None:
        if self.normalization not in ("token", "sequence"):
            raise ValueError(f"normalization must be 'token' or 'sequence', got {self.normalization!r}")
        if self.normalization == "sequence" and not (self.mean_length or 0.0) > 0.0:
            raise ValueError(
                f"mean_length must be > 0 with normalization 'sequence', got {self.mean_length}: "
                "set it to the batch's policy tokens divided by its episodes"
            )

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        guidance = guidance_loss(logprobs[:, 1], rows.target_mask[:, 1])
        if self.normalization == "sequence" and self.mean_length is not None:
            guidance = guidance * (self.mean_length / rows.lengths.clamp(min=1.0))
        return super().__call__(logprobs, entropy, rows) + self.guidance_weight * guidance

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Metrics:
        guided = rows.target_mask[:, 1]
        agreement = (rows.targets[:, 0] == rows.targets[:, 1]).to(logprobs.dtype)
        return super().metrics(logprobs, entropy, rows) | {
            "guidance/nll": masked_sum(-logprobs[:, 1], guided),
            "guidance/agreement": masked_sum(agreement, guided),
            "guidance/coverage": (guided.sum(), rows.mask.sum()),
        }


def masked_sum(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """(sum of the values where mask is 1, how many): detached scalars."""
    return (values.detach() * mask).sum(), mask.sum()
