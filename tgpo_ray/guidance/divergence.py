"""How far the policy is from its teacher on what it wrote: log rho = log pi(y_t) - log pi_T(y_t)."""

from __future__ import annotations

import torch
from torch import Tensor

SumCount = tuple[Tensor, Tensor]
"""(sum, count), detached scalars: add both over micro-batches and ranks, then divide."""

EXPONENT_LIMIT = 20.0  # of the k3 estimate: exp overflows otherwise
HISTOGRAM_LIMIT = 20.0  # nats; what lies outside is counted in the outermost bins
HISTOGRAM_BINS = 400  # of 0.1 nat


def log_ratio(logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """log rho (...), nats: positive where the policy wrote what the teacher finds less likely.

        log rho_t = log pi(y_t | x, y_<t) - log pi_T(y_t | x, y_<t)

    Its mean over tokens of the policy's own writing is the k1 estimate of KL(pi || pi_T). Teacher-Guided Policy
    Optimization reads rho as the divergence that reverse-KL methods penalise.

    Args:
        logprobs, teacher_logprobs: same shape; of the sampled tokens, at the same temperature.
    """
    return (logprobs - teacher_logprobs).detach()


def masked_mean_parts(values: Tensor, mask: Tensor) -> SumCount:
    """(sum of the values where mask is 1, how many); a NaN or an infinity behind the mask does no harm."""
    kept = mask > 0
    return (values.detach().masked_fill(~kept, 0.0) * mask).sum(), mask.sum()


def kl_k3(ratio: Tensor) -> Tensor:
    """exp(-log rho) - 1 + log rho: never negative, its mean unbiased for KL(pi || pi_T).

    Schulman, "Approximating KL divergence" (2020). The ratio is clamped to +-20.
    """
    ratio = ratio.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT)
    return torch.expm1(-ratio) + ratio


def share_above(ratio: Tensor, mask: Tensor, bound: float) -> SumCount:
    """Of the tokens with log rho > bound: (how many, of how many)."""
    return masked_mean_parts((ratio > bound).to(mask.dtype), mask)


def log_ratio_quantile(ratio: Tensor, mask: Tensor, q: float = 0.95) -> Tensor:
    """The q-quantile of log rho over the masked tokens, as the nearest of them above; NaN without tokens.

    Raises:
        ValueError: q outside (0, 1].
    """
    if not 0.0 < q <= 1.0:
        raise ValueError(f"q must be in (0, 1], got {q}")
    kept = ratio[mask > 0]
    if not len(kept):
        return ratio.new_full((), torch.nan)
    rank = max(1, -int(-q * len(kept) // 1))  # ceil
    return kept.float().kthvalue(rank).values  # torch.quantile refuses more than 16 million numbers


def log_ratio_histogram(ratio: Tensor, mask: Tensor) -> Tensor:
    """Counts (400,) of log rho in bins of 0.1 nat from -20 to 20: add them over micro-batches, ranks and steps.

    A quantile is not the mean of quantiles; `histogram_quantile` reads it from the added counts.
    """
    width = 2.0 * HISTOGRAM_LIMIT / HISTOGRAM_BINS
    kept = ratio[mask > 0].double()
    bins = ((kept + HISTOGRAM_LIMIT) / width).floor().clamp(0, HISTOGRAM_BINS - 1).long()
    return torch.bincount(bins, minlength=HISTOGRAM_BINS)


def histogram_quantile(counts: Tensor, q: float = 0.95) -> float:
    """The q-quantile of a `log_ratio_histogram`, to within its bin of 0.1 nat; NaN when it is empty."""
    total = int(counts.sum())
    if total == 0:
        return float("nan")
    cumulative = counts.cumsum(0)
    index = int((cumulative < q * total).sum())
    before = int(cumulative[index] - counts[index])
    share = (q * total - before) / int(counts[index])
    return (index + share) * 2.0 * HISTOGRAM_LIMIT / HISTOGRAM_BINS - HISTOGRAM_LIMIT
