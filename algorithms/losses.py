"""Losses as functions of tensors. Each is per token, unmasked, unnormalised and to be minimised.

Shapes: every argument and result is (N,) or any one shape. Log-probabilities are in nats. The caller multiplies by its
mask, and the step divides by the global token count.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]

LOG_RATIO_LIMIT = 20.0
"""Bound in nats of a log-ratio before exp. exp(89) overflows float32, and infinity times an advantage or a mask of 0 is
not a number. Ratios of e^20 = 5e8 are beyond every clip, and the gradient ends there as behind a clip."""


def importance_ratio(logprobs: Tensor, old_logprobs: Tensor | None) -> Tensor:
    """pi / pi_old of the sampled tokens. With `old_logprobs` None it is exactly 1 and has the gradient of log pi.

    The log-ratio is clamped to +-20, so that the ratio times an advantage of 0 is 0.
    """
    return _bounded_exp(logprobs - (logprobs.detach() if old_logprobs is None else old_logprobs))


def _bounded_exp(log_ratio: Tensor) -> Tensor:
    """exp of a log-ratio that is clamped to +-LOG_RATIO_LIMIT."""
    return torch.exp(log_ratio.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT))


def clipped_policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor | None,
    advantages: Tensor,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None = None,
) -> Tensor:
    """PPO's clipped surrogate, as a quantity to minimise.

        r = exp(logprobs - old_logprobs)
        L = max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high));   where A < 0 and dual_clip = c:  L = min(L, -A c)

    Schulman et al. 2017, Eq. 7. The two clip widths are DAPO's (2503.14476, Eq. 8). The dual clip is that of Ye et al.
    2020 (1912.09729, Eq. 5), which bounds the loss of a bad token that became likelier.

    Args:
        old_logprobs: under the weights that sampled. None means the present weights, for which r = 1 exactly and
            nothing is clipped.
        clip_low, clip_high: distances of the bounds from 1.
        dual_clip: c > 1, or None for none.
    """
    ratio = importance_ratio(logprobs, old_logprobs)
    losses = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1.0 - clip_low, 1.0 + clip_high))
    if dual_clip is None:
        return losses
    return torch.where(advantages < 0, torch.minimum(losses, -advantages * dual_clip), losses)


def clipped_tokens(
    logprobs: Tensor, old_logprobs: Tensor | None, advantages: Tensor, clip_low: float, clip_high: float
) -> Tensor:
    """1.0 where the clip of `clipped_policy_loss` takes the gradient away: A > 0 above 1 + clip_high, or A < 0 below
    1 - clip_low."""
    ratio = importance_ratio(logprobs, old_logprobs)
    above, below = ratio > 1.0 + clip_high, ratio < 1.0 - clip_low
    return (((advantages > 0) & above) | ((advantages < 0) & below)).to(logprobs.dtype)


def negative_log_likelihood(logprobs: Tensor) -> Tensor:
    """-log pi(y_t): supervised fine-tuning on the given tokens."""
    return -logprobs


def kl_k1(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """log p - log q of the sampled token, an unbiased estimate of the value of KL(p||q).

    As a loss its expected gradient is 0, whatever q is. Use it as an advantage or a metric.
    """
    return logprobs - reference_logprobs


def kl_k2(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """(log p - log q)^2 / 2 of the sampled token. As a loss its expected gradient is that of KL(p||q).

    Schulman, "Approximating KL divergence" (2020).
    """
    return 0.5 * (logprobs - reference_logprobs).square()


def kl_k3(logprobs: Tensor, reference_logprobs: Tensor) -> Tensor:
    """q/p - 1 + log(p/q) of the sampled token, an unbiased estimate of KL(p||q) that is never negative.

    Schulman, "Approximating KL divergence" (2020); DeepSeekMath (2402.03300) Eq. 4. As a loss its expected gradient is
    that of the *forward* KL(q||p). The log-ratio is clamped to +-20, because q/p would overflow.
    """
    difference = (reference_logprobs - logprobs).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return torch.expm1(difference) - difference  # expm1 is exact where p is near q


def kl_estimate(logprobs: Tensor, reference_logprobs: Tensor, estimator: KLEstimator) -> Tensor:
    """`kl_k1`, `kl_k2` or `kl_k3` by name."""
    estimators = {"k1": kl_k1, "k2": kl_k2, "k3": kl_k3}
    if estimator not in estimators:
        raise ValueError(f"kl_estimator must be one of k1, k2, k3, got {estimator!r}")
    return estimators[estimator](logprobs, reference_logprobs)


def truncated_importance_weight(learner_logprobs: Tensor, sampler_logprobs: Tensor, cap: float = 2.0) -> Tensor:
    """min(pi_learner / pi_sampler, cap) of the sampled tokens, a weight for the policy loss without gradient.

    It corrects for an engine whose log-probabilities differ from the learner's (Yao et al. 2025, truncated importance
    sampling).

    Raises:
        ValueError: cap <= 0.
    """
    _require_cap(cap)
    return _bounded_exp(learner_logprobs.detach() - sampler_logprobs).clamp(max=cap)


def sequence_importance_weight(
    learner_logprobs: Tensor, sampler_logprobs: Tensor, mask: Tensor, sequence: Tensor, cap: float = 2.0
) -> Tensor:
    """min(prod_t pi_learner(y_t) / pi_sampler(y_t), cap) of each row's whole sequence, without gradient.

    The product over a response is the weight that makes the policy gradient unbiased. The token form above leaves out
    the earlier tokens, which makes it biased with far less variance. The summed log-ratio is clamped to +-20.

    Args:
        mask: (N,) 1.0 on the tokens that count.
        sequence: (N,) int64 below N, the sequence of each row. All rows of a sequence must be here.

    Raises:
        ValueError: cap <= 0.
    """
    _require_cap(cap)
    ratios = mask * (learner_logprobs.detach() - sampler_logprobs)  # (N,)
    sums = torch.zeros_like(ratios).index_add(0, sequence, ratios)  # (N,), the first B of which are used
    return _bounded_exp(sums).clamp(max=cap)[sequence]


def _require_cap(cap: float) -> None:
    if not cap > 0.0:
        raise ValueError(f"cap must be > 0, got {cap}: weights above it are cut to it")
