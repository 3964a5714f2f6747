"""The distance of the policy from its teacher on the policy's tokens: log rho = log pi(y_t) - log pi_T(y_t)."""

from __future__ import annotations

import torch
from torch import Tensor

from tgpo_ray.guidance.translator import UNREADABLE_LOGPROB

SumCount = tuple[Tensor, Tensor]
"""(sum, count), detached scalars: add both over micro-batches and ranks, then divide."""

EXPONENT_LIMIT = 20.0  # bound of the k3 estimate, beyond which exp overflows
HISTOGRAM_LIMIT = 20.0  # nats; values outside count in the outermost bins
HISTOGRAM_BINS = 400  # of 0.1 nat


def log_ratio(logprobs: Tensor, teacher_logprobs: Tensor) -> Tensor:
    """Returns log rho (...) in nats, which is positive where the teacher finds the policy's token less likely.

        log rho_t = log pi(y_t | x, y_<t) - log pi_T(y_t | x, y_<t)

    Its mean over tokens that the policy wrote is the k1 estimate of KL(pi || pi_T). In Teacher-Guided Policy
    Optimization rho is the divergence that reverse-KL methods penalise.

    Args:
        logprobs, teacher_logprobs: same shape, nats; both of the sampled tokens, at the same temperature.
    """
    return (logprobs - teacher_logprobs).detach()


def known_logprobs(logprobs: Tensor) -> Tensor:
    """Returns a teacher's log-probabilities with NaN at placeholders: the teacher cannot read that token."""
    return logprobs.masked_fill(logprobs == UNREADABLE_LOGPROB, torch.nan)


def best_logprobs(topk_logprobs: Tensor) -> Tensor:
    """Returns the highest known log-probability (...) of each position's k (..., k), and NaN where none is known."""
    best = torch.nan_to_num(known_logprobs(topk_logprobs), nan=-torch.inf).amax(-1)
    return best.masked_fill(torch.isneginf(best), torch.nan)


def masked_mean_parts(values: Tensor, mask: Tensor) -> SumCount:
    """Returns (sum of the values where mask is 1, their number). NaN and infinity where mask is 0 have no effect."""
    selected = mask > 0
    # filled before the product, because 0 * NaN is NaN
    return (values.detach().masked_fill(~selected, 0.0) * mask).sum(), mask.sum()


def kl_k3(ratio: Tensor) -> Tensor:
    """Returns exp(-log rho) - 1 + log rho, which is never negative. Its mean is unbiased for KL(pi || pi_T).

    Schulman, "Approximating KL divergence" (2020). The ratio is clamped to +-20.
    """
    ratio = ratio.clamp(-EXPONENT_LIMIT, EXPONENT_LIMIT)
    return torch.expm1(-ratio) + ratio


def share_above(ratio: Tensor, mask: Tensor, bound: float) -> SumCount:
    """Returns (count, total) of the tokens with log rho > bound."""
    return masked_mean_parts((ratio > bound).to(mask.dtype), mask)


def log_ratio_quantile(ratio: Tensor, mask: Tensor, q: float = 0.95) -> Tensor:
    """Returns the q-quantile () of log rho over the masked tokens, as the nearest token above; NaN without tokens.

    Raises:
        ValueError: q outside (0, 1].
    """
    if not 0.0 < q <= 1.0:
        raise ValueError(f"q must be in (0, 1], got {q}")
    selected = mask.flatten() > 0  # (N,)
    if not len(selected):
        return ratio.new_full((), torch.nan)
    # sorted behind the selected values instead of selected by index: their number stays on the device
    values = ratio.flatten().float().masked_fill(~selected, torch.inf).sort().values
    count = selected.sum()
    rank = (q * count.double()).ceil().long().clamp(min=1)
    return torch.where(count > 0, values.gather(0, rank[None] - 1)[0], torch.nan)


def log_ratio_histogram(ratio: Tensor, mask: Tensor) -> Tensor:
    """Returns counts (400,) of log rho in bins of 0.1 nat from -20 to 20. Add them over micro-batches, ranks and steps.

    The mean of quantiles is not the quantile of all. `histogram_quantile` reads that from the added counts.
    """
    width = 2.0 * HISTOGRAM_LIMIT / HISTOGRAM_BINS
    values = ratio[mask > 0].double()  # (n,)
    bins = ((values + HISTOGRAM_LIMIT) / width).floor().clamp(0, HISTOGRAM_BINS - 1).long()
    return torch.bincount(bins, minlength=HISTOGRAM_BINS)


def histogram_quantile(counts: Tensor, q: float = 0.95) -> float:
    """Returns the q-quantile of a `log_ratio_histogram`, exact to 0.1 nat (its bin); NaN if it is empty."""
    total = int(counts.sum())
    if total == 0:
        return float("nan")
    cumulative = counts.cumsum(0)
    index = int((cumulative < q * total).sum())
    before = int(cumulative[index] - counts[index])
    share = (q * total - before) / int(counts[index])
    return (index + share) * 2.0 * HISTOGRAM_LIMIT / HISTOGRAM_BINS - HISTOGRAM_LIMIT
