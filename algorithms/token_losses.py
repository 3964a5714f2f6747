"""The token-level losses of SFT, GRPO and TGPO, which `tgpo_ray.kernels` calls for each chunk of response tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from tgpo_ray.episode import ORIGIN_POLICY, ORIGIN_TEACHER
from tgpo_ray.guidance import Gate, GateInputs, GuidanceBatch, diagnostic_sums, guidance_loss, topk_guidance_loss
from tgpo_ray.kernels import TokenLoss, TokenRows

from .losses import (
    KLEstimator,
    clipped_policy_loss,
    clipped_tokens,
    importance_ratio,
    kl_estimate,
    kl_k1,
    kl_k3,
    negative_log_likelihood,
    sequence_importance_weight,
    truncated_importance_weight,
)

Metrics = dict[str, tuple[Tensor, Tensor]]
Importance = Literal["none", "truncated", "sequence"]

SAMPLER = "episode.old_logprobs"  # the log-probs that the engine reported when it sampled
REFERENCE = "reference.teacher_logprobs"  # not a number where the reference did not answer
GATE = "gate"  # what a gate that needs whole responses has computed before


@dataclass(frozen=True)
class SFTLoss(TokenLoss):
    """-log pi(y_t) on every token whose `mask` is 1."""

    track_entropy: bool = False

    trained_origins: ClassVar[tuple[int, ...]] = (ORIGIN_POLICY, ORIGIN_TEACHER)  # traces are the teacher's writing

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
    """The clipped policy loss of GRPO and its relatives, with their optional terms.

        L_t = m_t { v_t [ u_t clipped_policy_loss(lp_t, old_t, A_t) + kl_weight kl(lp_t, ref_t) ] - entropy_weight H_t }

    The entropy bonus has no v_t: it is a mean over tokens in every method (`GRPO.policy_options`). The defaults are the
    GRPO++ of Teacher-Guided Policy Optimization: no KL, v = u = 1.

    Args:
        per_sequence: v_t = 1/|y_i|, else v_t = 1. With the number of episodes as the step's denominator every response
            then weighs the same (DeepSeekMath's GRPO).
        kl_weight, kl_estimator, kl_as: KL to a frozen reference, a scorer named "reference". A `loss` is k2 or k3
            (DeepSeekMath, 2402.03300, Eq. 3: k3). An `advantage` is A_t - kl_weight sg[k1], which is InstructGPT's
            penalty in the reward with immediate credit.
        importance: u_t, which corrects for a sampler whose log-probabilities are not the learner's. `truncated` is
            min(pi_learner / pi_sampler, importance_cap) for each token. `sequence` is the product over the response,
            cut at the same cap. pi_learner is pi_old where it is known, else the present policy, so that u_t is then
            the weight of a gradient without a clip.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    entropy_weight: float = 0.0
    track_entropy: bool = False
    per_sequence: bool = False
    kl_weight: float = 0.0
    kl_estimator: KLEstimator = "k3"
    kl_as: Literal["loss", "advantage"] = "loss"
    importance: Importance = "none"
    importance_cap: float = 2.0

    @property
    def needs_entropy(self) -> bool:
        return self.track_entropy or self.entropy_weight != 0.0

    @property
    def needs_sequence(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride] (here an option says so)
        return self.importance == "sequence"

    @property
    def corrects_sampler(self) -> bool:
        return self.importance != "none"

    @property
    def row_fields(self) -> tuple[str, ...]:
        reference = (REFERENCE,) if self.kl_weight else ()
        sampler = (SAMPLER,) if self.corrects_sampler else ()
        return (*super().row_fields, *reference, *sampler)

    def prepare(self, logprobs: Tensor, rows: TokenRows) -> TokenRows:
        """The rows with `importance` (N,), the weight of each row's whole sequence, where the loss needs it."""
        if self.importance != "sequence":
            return rows
        learner = old_or_present(logprobs[:, 0], rows)
        sampler = rows.extra[SAMPLER].to(learner.dtype)
        weights = sequence_importance_weight(learner, sampler, rows.mask, rows.sequence, self.importance_cap)
        return rows.with_extra(importance=weights)

    def parts(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> dict[str, Tensor]:
        """`policy`, and `reference_kl` and `entropy` where they have a weight."""
        parts = {"policy": self.weighed(self.policy_term(logprobs[:, 0], rows), rows)}
        if self.kl_weight != 0.0 and self.kl_as == "loss":
            reference, known = self.reference(rows)
            kl = kl_estimate(logprobs[:, 0], reference, self.kl_estimator)
            parts["reference_kl"] = self.weighed(self.kl_weight * known * kl, rows)
        if entropy is not None and self.entropy_weight != 0.0:
            parts["entropy"] = -self.entropy_weight * entropy
        return {name: rows.mask * values for name, values in parts.items()}

    def weighed(self, values: Tensor, rows: TokenRows) -> Tensor:
        """(N,) v_t times the values: over the length of the response with `per_sequence`."""
        return values / rows.lengths.clamp(min=1.0) if self.per_sequence else values

    def policy_term(self, logprobs: Tensor, rows: TokenRows) -> Tensor:
        """(N,) u_t clipped_policy_loss(...) of the sampled tokens."""
        losses = clipped_policy_loss(
            logprobs, rows.old_logprobs, self.advantages(logprobs, rows), self.clip_low, self.clip_high, self.dual_clip
        )
        return losses if self.importance == "none" else self.importance_weights(logprobs, rows) * losses

    def advantages(self, logprobs: Tensor, rows: TokenRows) -> Tensor:
        """(N,) the factor of the ratio: the rows' advantages, minus the KL where `kl_as` is `advantage`."""
        if self.kl_weight == 0.0 or self.kl_as != "advantage":
            return rows.advantages
        reference, known = self.reference(rows)
        return rows.advantages - self.kl_weight * known * kl_k1(old_or_present(logprobs, rows), reference)

    @staticmethod
    def reference(rows: TokenRows) -> tuple[Tensor, Tensor]:
        """(N,) the reference's log-probs of the sampled tokens, and (N,) 1.0 where it answered, else 0.0."""
        logprobs = rows.extra[REFERENCE].to(rows.advantages.dtype)
        return torch.nan_to_num(logprobs), torch.isfinite(logprobs).to(logprobs.dtype)

    def importance_weights(self, logprobs: Tensor, rows: TokenRows) -> Tensor:
        """(N,) u_t, without gradient."""
        if self.importance == "sequence":
            return rows.extra["importance"]
        learner = old_or_present(logprobs, rows)
        return truncated_importance_weight(learner, rows.extra[SAMPLER].to(learner.dtype), self.importance_cap)

    def importance_metrics(self, logprobs: Tensor, rows: TokenRows) -> Metrics:
        """The gap between learner and sampler, and the weights: mean, mean square, share cut at the cap."""
        gap = old_or_present(logprobs, rows) - rows.extra[SAMPLER]
        weights, cap = self.importance_weights(logprobs, rows), self.importance_cap
        return {
            "policy/sampler_gap": masked_sum(gap.abs(), rows.mask),
            "policy/importance_weight": masked_sum(weights, rows.mask),
            "policy/importance_weight_squared": masked_sum(weights.square(), rows.mask),
            "policy/importance_cut": masked_sum((weights >= cap).to(weights.dtype), rows.mask),
        }

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Metrics:
        sampled, mask, old = logprobs[:, 0], rows.mask, rows.old_logprobs
        clipped = clipped_tokens(sampled, old, self.advantages(sampled, rows), self.clip_low, self.clip_high)
        metrics = {"policy/clip_fraction": masked_sum(clipped, mask)}
        if old is not None:
            metrics["policy/old_kl"] = masked_sum(kl_k3(old, sampled), mask)  # KL(pi_old || pi), sampled by pi_old
            metrics["policy/ratio_deviation"] = masked_sum((importance_ratio(sampled, old) - 1.0).abs(), mask)
        if entropy is not None:
            metrics["policy/entropy"] = masked_sum(entropy, mask)
        if self.importance != "none":
            metrics |= self.importance_metrics(sampled, rows)
        if self.kl_weight != 0.0:
            reference, known = self.reference(rows)
            metrics["policy/reference_kl"] = masked_sum(kl_k3(sampled, reference), mask * known)
        return metrics


@dataclass(frozen=True)
class GuidedPolicyLoss(PolicyLoss):
    """TGPO: `PolicyLoss` plus guidance towards the teacher's tokens on the policy's own responses.

        L_t = L_pg,t + guidance_weight g_t m^T_t [ -log pi(y^T_t | x, y_<t) ]

    Teacher-Guided Policy Optimization, Eq. 4 and 6, with the guidance subtracted from the objective. The paper prints
    the other sign, and its code subtracts. Guidance is on all guided tokens of all responses, without ratio, advantage
    or clip. `normalization="sequence"` is Eq. 3 as printed. Each response then weighs the same, by the factor
    mean_length / |y_i|, where `mean_length` is the step's denominator for each response of the batch, Z / B under a
    token mean. The authors ran "token".

    g_t is the factor of the `gate`, without gradient, and 1 without one. No denominator has it, so a gate that shuts
    makes guidance less. `diagnostics` are fields of the teacher that only metrics read.
    """

    guidance_weight: float = 2e-3
    normalization: Literal["token", "sequence"] = "token"
    mean_length: float | None = None
    gate: Gate | None = None
    diagnostics: tuple[str, ...] = ()

    targets: ClassVar[tuple[str, ...]] = ("teacher.teacher_ids",)

    def __post_init__(self) -> None:
        if self.normalization not in ("token", "sequence"):
            raise ValueError(f"normalization must be 'token' or 'sequence', got {self.normalization!r}")
        if self.normalization == "sequence" and not (self.mean_length or 0.0) > 0.0:
            raise ValueError(
                f"mean_length must be > 0 with normalization 'sequence', got {self.mean_length}: "
                "set it to the batch's policy tokens divided by its episodes"
            )

    @property
    def row_fields(self) -> tuple[str, ...]:
        gate = self.gate.row_fields() if self.gate is not None else ()
        return tuple(dict.fromkeys((*super().row_fields, *gate, *self.diagnostics)))

    @property
    def needs_sequence(self) -> bool:
        return super().needs_sequence or (self.gate is not None and self.gate.whole_responses)

    def prepare(self, logprobs: Tensor, rows: TokenRows) -> TokenRows:
        """The rows with the factors of a gate that needs whole responses."""
        rows = super().prepare(logprobs, rows)
        if self.gate is None or not self.gate.whole_responses:
            return rows
        return rows.with_extra(**{GATE: self.gate(GateInputs.from_rows(logprobs, rows))})

    def factor(self, logprobs: Tensor, rows: TokenRows) -> Tensor | float:
        """(N,) g_t, or 1.0 without a gate."""
        if self.gate is None:
            return 1.0
        return rows.extra[GATE] if GATE in rows.extra else self.gate(GateInputs.from_rows(logprobs, rows))

    def parts(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> dict[str, Tensor]:
        guidance = self.factor(logprobs, rows) * self.guidance(logprobs, rows)
        if self.normalization == "sequence" and self.mean_length is not None:
            guidance = guidance * (self.mean_length / rows.lengths.clamp(min=1.0))
        return super().parts(logprobs, entropy, rows) | {"guidance": self.guidance_weight * guidance}

    def guidance(self, logprobs: Tensor, rows: TokenRows) -> Tensor:
        """(N,) the masked guidance loss, before weight and normalisation."""
        return guidance_loss(logprobs[:, 1], rows.target_mask[:, 1])

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Metrics:
        factor = self.factor(logprobs, rows)
        weight = self.guidance_weight * factor
        figures = diagnostic_sums(GuidanceBatch.from_rows(logprobs, rows), guidance_weight=weight)
        if isinstance(factor, Tensor):
            guided = rows.target_mask[:, 1:].amax(-1)  # (N,) where the teacher said something
            figures["guidance/gate"] = masked_sum(factor, guided)
            figures["guidance/gate_open"] = masked_sum((factor > 0).to(factor.dtype), guided)
        return super().metrics(logprobs, entropy, rows) | figures


@dataclass(frozen=True)
class SoftGuidedPolicyLoss(GuidedPolicyLoss):
    """TGPO towards the teacher's top-k distribution, by the forward KL on those k tokens, both sides renormalised.

        L_t = L_pg,t + guidance_weight m^T_t sum_{v in K_t} q~(v) [ log q~(v) - log p~(v) ]

    q~ and p~ are the teacher's and the policy's probabilities on K_t, each divided by its sum there. The authors' later
    code has it with k in 5, 20, 100, as the cross-entropy, which differs by a constant. The rows have the policy's
    log-probabilities at the sampling temperature and the teacher's at 1. On K_t, renormalised, the teacher's at
    `temperature` are the softmax of log q(v) / temperature, so that both are of one temperature.
    """

    temperature: float = 1.0

    targets: ClassVar[tuple[str, ...]] = ("teacher.topk_ids",)  # k columns, the likeliest first
    fields: ClassVar[tuple[str, ...]] = ("teacher.topk_logprobs",)

    def guidance(self, logprobs: Tensor, rows: TokenRows) -> Tensor:
        teacher = rows.extra["teacher.topk_logprobs"] / self.temperature  # (N, k), but for a constant of each row
        return topk_guidance_loss(logprobs[:, 1:], teacher.to(logprobs.dtype), rows.target_mask[:, 1:])


def old_or_present(logprobs: Tensor, rows: TokenRows) -> Tensor:
    """(N,) log pi_old of the sampled tokens, or the present policy's where none is known, without gradient."""
    return logprobs.detach() if rows.old_logprobs is None else rows.old_logprobs


def masked_sum(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The sum of the values where mask is 1, and the number of these values, as detached scalars."""
    return (values.detach() * mask).sum(), mask.sum()
