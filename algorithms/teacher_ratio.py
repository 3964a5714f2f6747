"""Losses of the teacher's log-ratio on the policy's own tokens: RKL, OPDistill, KDRL and TrOPD.

Notation: d_t = log pi_T(y_t) - log pi_old(y_t), without gradient. pi_old is the present policy where no other is known.
Rows that the teacher did not answer, or could not read, have d_t = 0 and no teacher term.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tgpo_ray.episode import ORIGIN_POLICY, ORIGIN_TEACHER
from tgpo_ray.guidance import UNREADABLE_LOGPROB
from tgpo_ray.kernels import TokenRows

from .losses import KLEstimator, importance_ratio, kl_estimate
from .token_losses import Metrics, PolicyLoss, masked_sum, old_or_present

TEACHER_LOGPROBS, TOPK_IDS, TOPK_LOGPROBS = "teacher.teacher_logprobs", "teacher.topk_ids", "teacher.topk_logprobs"
Gate = Literal["bernoulli", "expected", "threshold"]


def known_tokens(rows: TokenRows, eos_ids: tuple[int, ...] = ()) -> Tensor:
    """(N,) 1.0 on the policy's tokens whose probability the teacher gave, without end-of-sequence tokens.

    The teacher may never write the policy's end-of-sequence token. The log-ratio would then be a huge penalty on
    stopping, which lengthens responses without end (the mask of "OPD-then-RL", appendix A.2).
    """
    logprobs = rows.extra[TEACHER_LOGPROBS]
    known = rows.mask * (torch.isfinite(logprobs) & (logprobs != UNREADABLE_LOGPROB)).to(rows.mask.dtype)
    for eos in eos_ids:
        known = known * (rows.targets[:, 0] != eos).to(known.dtype)
    return known


def teacher_log_ratio(logprobs: Tensor, rows: TokenRows, known: Tensor) -> Tensor:
    """(N,) d_t = log pi_T(y_t) - log pi_old(y_t), without gradient; 0 where `known` is 0."""
    return torch.where(known > 0, rows.extra[TEACHER_LOGPROBS] - old_or_present(logprobs, rows), 0.0)


def discounted_returns(values: Tensor, sequence: Tensor, discount: float) -> Tensor:
    """(N,) sum_{s >= t} discount^(s - t) v_s within each sequence. The sequences follow each other in the rows.

    By doubling: what s = t .. t + k - 1 give, plus discount^k times what the k after them give. That takes log N passes
    and no length that would have to come from the device.
    """
    returns, span = values, 1
    while span < len(values):
        same = sequence[span:] == sequence[:-span]  # (N - span,)
        following = torch.where(same, returns[span:], 0.0) * discount**span
        returns = torch.cat([returns[:-span] + following, returns[-span:]])
        span *= 2
    return returns


@dataclass(frozen=True)
class KnownTokensLoss(PolicyLoss):
    """A policy loss that has a teacher's term where the teacher gave the sampled token's probability."""

    only_incorrect: bool = False  # the teacher's term only on incorrect responses
    eos_ids: tuple[int, ...] = ()  # end-of-sequence ids, which have no teacher's term

    fields: ClassVar[tuple[str, ...]] = (TEACHER_LOGPROBS, "episode.correct")

    def known(self, rows: TokenRows) -> Tensor:
        """(N,) 1.0 on the tokens that have the teacher's term."""
        known = known_tokens(rows, self.eos_ids)
        return known * (1.0 - rows.extra["episode.correct"]) if self.only_incorrect else known

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Metrics:
        return super().metrics(logprobs, entropy, rows) | ratio_metrics(logprobs, rows, self.known(rows))


@dataclass(frozen=True)
class TeacherRatioLoss(KnownTokensLoss):
    """The policy loss with the teacher's log-ratio as each token's advantage.

        A_t = reward_weight A_i + ratio_weight sum_{s >= t} discount^(s - t) d_s

    With discount 0 and r = 1 the expected gradient is that of ratio_weight KL(pi || pi_T) at each position. Discount 1
    gives the sequence-level KL (Teacher-Guided Policy Optimization, Eq. 1 and 8), without bias and far noisier.
    """

    reward_weight: float = 0.0
    ratio_weight: float = 1.0
    discount: float = 0.0
    advantage_clip: float | None = None  # the teacher's part is cut to +- this

    @property
    def needs_sequence(self) -> bool:
        return super().needs_sequence or self.discount > 0.0

    def prepare(self, logprobs: Tensor, rows: TokenRows) -> TokenRows:
        rows = super().prepare(logprobs, rows)
        if self.discount == 0.0:
            return rows
        ratio = teacher_log_ratio(logprobs[:, 0], rows, self.known(rows))
        return rows.with_extra(teacher_return=discounted_returns(ratio, rows.sequence, self.discount))

    def advantages(self, logprobs: Tensor, rows: TokenRows) -> Tensor:
        signal = rows.extra.get("teacher_return")  # (N,), from `prepare`; None without a discount
        if signal is None:
            signal = teacher_log_ratio(logprobs, rows, self.known(rows))
        if self.advantage_clip is not None:
            signal = signal.clamp(-self.advantage_clip, self.advantage_clip)
        advantages = self.reward_weight * rows.advantages + self.ratio_weight * signal
        return super().advantages(logprobs, rows.replace(advantages=advantages))


@dataclass(frozen=True)
class KDRLLoss(KnownTokensLoss):
    """The policy loss plus an estimate of KL(pi || pi_T) on the policy's tokens.

        L_t = L_pg,t + distillation_weight m^T_t 1/2 (log pi_T(y_t) - log pi(y_t))^2

    KDRL (2506.02208). Its default is `k2`, whose expected gradient is that of KL(pi || pi_T). `k3` has the gradient of
    KL(pi_T || pi). The authors of Teacher-Guided Policy Optimization ran this baseline with the opposite sign, or with
    `k1`, whose gradient has no teacher in it, so their row is no target. The sum is over the distilled tokens, and no
    token's term is divided by its response's length: `per_sequence` is the policy loss's.
    """

    distillation_weight: float = 2e-3
    distillation_estimator: KLEstimator = "k2"

    def __post_init__(self) -> None:
        if self.distillation_estimator not in ("k2", "k3"):
            raise ValueError(
                f"distillation_estimator must be k2 or k3, got {self.distillation_estimator!r}: k1 as a loss has no "
                "teacher in its gradient"
            )

    def parts(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> dict[str, Tensor]:
        known = self.known(rows)
        # Unknown rows may be NaN, and 0 x NaN is NaN: the policy's own value stands in for them.
        teacher = torch.where(known > 0, rows.extra[TEACHER_LOGPROBS], logprobs[:, 0].detach())
        penalty = known * kl_estimate(logprobs[:, 0], teacher, self.distillation_estimator)
        return super().parts(logprobs, entropy, rows) | {"distillation": self.distillation_weight * penalty}


@dataclass(frozen=True)
class TrustRegionLoss(PolicyLoss):
    """TrOPD: reverse KL on tokens that the teacher might write, forward KL on others, NLL on teacher prefixes.

        P_t = min(pi_T(y_t) / pi_old(y_t), 1)                                  acceptance of speculative decoding
        L_t = w { -M_t r_t d_t + (1 - M_t) sum_{v in topk_T} pi_T(v) (log pi_T(v) - log pi(v)) }    the policy's tokens
        L_t = prefix_weight (-log pi(x_t))                                                          the teacher's tokens

    TrOPD (2606.01249), of which no code is public. It leaves three points open. Here pi_old is the sampling policy, the
    forward KL is not renormalised over the top k, and all tokens share one denominator. M_t is drawn (`bernoulli`), or
    its expectation P_t (`expected`, the same gradient with less noise), or P_t >= threshold (`threshold`).
    """

    gate: Gate = "bernoulli"
    threshold: float = 0.5
    teacher_weight: float = 1.0
    prefix_weight: float = 1e-3
    outlier_weight: float = 1.0  # 0: outliers are masked
    eos_ids: tuple[int, ...] = ()

    targets: ClassVar[tuple[str, ...]] = (TOPK_IDS,)
    fields: ClassVar[tuple[str, ...]] = (TEACHER_LOGPROBS, TOPK_LOGPROBS, "episode.origin", "episode.uniform")
    trained_origins: ClassVar[tuple[int, ...]] = (ORIGIN_POLICY, ORIGIN_TEACHER)

    def __post_init__(self) -> None:
        if self.gate not in ("bernoulli", "expected", "threshold"):
            raise ValueError(f"gate must be bernoulli, expected or threshold, got {self.gate!r}")

    def trust(self, logprobs: Tensor, rows: TokenRows) -> tuple[Tensor, Tensor]:
        """(N,) M_t, and (N,) 1.0 on the tokens that it applies to."""
        known = known_tokens(rows, self.eos_ids) * (rows.extra["episode.origin"] == ORIGIN_POLICY)
        acceptance = teacher_log_ratio(logprobs[:, 0], rows, known).exp().clamp(max=1.0)
        if self.gate == "expected":
            return acceptance, known
        bound = rows.extra["episode.uniform"] if self.gate == "bernoulli" else self.threshold
        # `uniform` is in [0, 1): with `>`, P_t = 0 is never drawn and P_t = 1 always
        is_open = acceptance > bound if self.gate == "bernoulli" else acceptance >= bound
        return is_open.to(acceptance.dtype), known

    def parts(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> dict[str, Tensor]:
        """`reverse_kl` where the gate is open, `forward_kl` elsewhere, `prefix`, and `entropy` if it has a weight."""
        trusted, known = self.trust(logprobs, rows)
        ratio = importance_ratio(logprobs[:, 0], rows.old_logprobs)
        reverse = trusted * (-ratio * teacher_log_ratio(logprobs[:, 0], rows, known))
        forward = self.outlier_weight * (1.0 - trusted) * topk_forward_kl(logprobs[:, 1:], rows)
        prefix = rows.mask * (rows.extra["episode.origin"] == ORIGIN_TEACHER) * -logprobs[:, 0]
        parts = {
            "reverse_kl": self.teacher_weight * (known * reverse),
            "forward_kl": self.teacher_weight * (known * forward),
            "prefix": self.prefix_weight * prefix,
        }
        if entropy is not None and self.entropy_weight != 0.0:
            parts["entropy"] = -self.entropy_weight * rows.mask * entropy
        return parts

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Metrics:
        trusted, known = self.trust(logprobs, rows)
        prefix = rows.mask * (rows.extra["episode.origin"] == ORIGIN_TEACHER)
        metrics = {
            "guidance/trusted": masked_sum(trusted, known),
            "guidance/outlier_kl": masked_sum(topk_forward_kl(logprobs[:, 1:], rows), known * (1.0 - trusted)),
            "guidance/prefix_nll": masked_sum(-logprobs[:, 0], prefix),
        } | ratio_metrics(logprobs, rows, known)
        return metrics if entropy is None else metrics | {"policy/entropy": masked_sum(entropy, rows.mask)}


def topk_forward_kl(target_logprobs: Tensor, rows: TokenRows) -> Tensor:
    """(N,) sum_k pi_T(v_k) (log pi_T(v_k) - log pi(v_k)) over the teacher's best tokens that the policy has.

    Args:
        target_logprobs: (N, K - 1) the policy's log-probs of the target columns 1, 2, ...
    """
    mask = rows.target_mask[:, 1:]  # (N, K - 1)
    teacher = torch.where(mask > 0, rows.extra[TOPK_LOGPROBS], 0.0)
    return (mask * teacher.exp() * (teacher - target_logprobs)).sum(-1)


def ratio_metrics(logprobs: Tensor, rows: TokenRows, known: Tensor) -> Metrics:
    """The mean of log pi_old - log pi_T on the policy's own tokens, and the share of tokens where it is known."""
    ratio = teacher_log_ratio(logprobs[:, 0], rows, known)
    return {
        "guidance/log_ratio": masked_sum(-ratio, known),
        "guidance/scored": (known.sum(), rows.mask.sum()),
    }
