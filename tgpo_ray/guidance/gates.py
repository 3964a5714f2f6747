"""Gates: where, and how much, guidance counts, as a factor for each token. Functions of tensors, without gradient.

A gate's positional parameters are names of tensors in `GateInputs`, and its keyword-only parameters are options. So a
gate of one's own is a function with such a signature: `Gate.of` reads from it what the teacher is asked for.

Shapes: every tensor and every result is (N,), one entry for each response token. NaN in an input is a number that
nobody knows. Where a gate needs it, its result is 0 or NaN, and `Gate` makes that 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor


def failed_gate(success: Tensor) -> Tensor:
    """Returns 1 in groups without any success and 0 elsewhere: guidance where the reward teaches nothing.

    Args:
        success: the mean reward of the token's group, each reward cut to [0, 1].
    """
    return (success <= 0.0).to(success.dtype)


def accuracy_gate(success: Tensor, *, kappa: float = 1.0) -> Tensor:
    """Returns (1 - success)^kappa, so that guidance fades in a group as the policy succeeds in it.

    Args:
        success: the mean reward of the token's group, each reward cut to [0, 1].
        kappa: exponent, >= 0; 0 lets everything pass.

    Raises:
        ValueError: kappa < 0.
    """
    _require_exponent(kappa)
    return (1.0 - success).clamp(0.0, 1.0) ** kappa


def disagreement_gate(target_logprobs: Tensor, teacher_logprobs: Tensor, *, tau: float = 0.0) -> Tensor:
    """Returns 1 where log pi_T(y^T) - log pi_T(y_t) > tau, else 0: only where the teacher prefers its own token.

    Args:
        target_logprobs: the teacher's, of its likeliest token, nats.
        teacher_logprobs: the teacher's, of the sampled token, nats.
        tau: nats, >= 0; 0 is open wherever the policy did not write the teacher's token.

    Raises:
        ValueError: tau < 0, above which every token is.
    """
    if not 0.0 <= tau < math.inf:
        raise ValueError(f"tau must be a finite number >= 0, got {tau}: no token is likelier than the teacher's own")
    return (target_logprobs - teacher_logprobs > tau).to(target_logprobs.dtype)


def confidence_gate(target_logprobs: Tensor, *, kappa: float = 1.0) -> Tensor:
    """Returns pi_T(y^T)^kappa: a teacher that hesitates teaches less.

    Args:
        target_logprobs: the teacher's, of its likeliest token, nats.
        kappa: exponent, >= 0.

    Raises:
        ValueError: kappa < 0.
    """
    _require_exponent(kappa)
    return torch.exp(kappa * target_logprobs.clamp(max=0.0))


def divergence_gate(log_ratio: Tensor, *, band: Sequence[float] = (-5.0, 5.0)) -> Tensor:
    """Returns 1 where low <= log rho <= high, else 0: no guidance at tokens where the two models are far apart.

    Args:
        log_ratio: log rho = log pi(y_t) - log pi_T(y_t), nats.
        band: low and high, nats. -1000 and 1000 are as good as none.

    Raises:
        ValueError: `band` is not two numbers with low < high.
    """
    wrong = f"band must be two numbers [low, high] of nats with low < high, got {band!r}"
    try:
        low, high = map(float, band)
    except (TypeError, ValueError) as error:
        raise ValueError(wrong) from error
    if not low < high:
        raise ValueError(wrong)
    return ((log_ratio >= low) & (log_ratio <= high)).to(log_ratio.dtype)


def drift_gate(log_ratio: Tensor, mask: Tensor, sequence: Tensor, *, budget: float) -> Tensor:
    """Returns 1 until a response has used up its budget of positive log-ratios, then 0 to its end.

        g_t = 1[ sum_{s < t} m_s max(0, log rho_s) <= budget ]

    The sum is over the tokens before t, because guidance at t is about the state that they lead to. A token whose ratio
    is unknown adds nothing.

    Args:
        log_ratio: log rho = log pi(y_t) - log pi_T(y_t), nats.
        mask: 1.0 on tokens that the policy wrote.
        sequence: int64, the response of each token; whole responses, one after the other.
        budget: nats, > 0.

    Raises:
        ValueError: the budget is not above 0.
    """
    if not budget > 0.0:
        raise ValueError(f"budget must be > 0 nats, got {budget}: guidance would stop at a response's first difference")
    spent = sums_before(mask * torch.nan_to_num(log_ratio, nan=0.0).clamp(min=0.0), sequence)
    return (spent <= budget).to(log_ratio.dtype)


def truncation_gate(mask: Tensor, sequence: Tensor, uniform: Tensor, *, coverage: float) -> Tensor:
    """Returns 1 on the beginning of each response, of a random length, then 0. The control of `drift_gate`.

        g_t = 1[ (number of the policy's tokens before t) + 1/2 < u^((1 - c) / c) n ],   u uniform in [0, 1)

    The share of a response that is kept has the mean c and does not depend on what was written. With c the share of
    tokens that the drift gate left open in its run (the metric `guidance/gate_open`) the two differ in where guidance
    ends and not in how much there is.

    Args:
        mask: 1.0 on tokens that the policy wrote; n is their number in the response.
        sequence: int64, the response of each token; whole responses, one after the other.
        uniform: noise in [0, 1), of which the first of each response is used.
        coverage: c, in (0, 1].

    Raises:
        ValueError: the coverage is outside (0, 1].
    """
    if not 0.0 < coverage <= 1.0:
        raise ValueError(
            f"coverage must be in (0, 1], the mean share of a response that keeps guidance, got {coverage}"
        )
    counts = torch.zeros_like(uniform).index_add(0, sequence, mask.to(uniform.dtype))[sequence]  # (N,) n
    kept = uniform[_starts(sequence)] ** ((1.0 - coverage) / coverage)
    return (sums_before(mask, sequence) + 0.5 < kept * counts).to(mask.dtype)


GATES: Mapping[str, Callable[..., Tensor]] = {
    "failed": failed_gate,
    "accuracy": accuracy_gate,
    "disagreement": disagreement_gate,
    "confidence": confidence_gate,
    "divergence": divergence_gate,
    "drift": drift_gate,
    "truncation": truncation_gate,
}
"""The gates that have a name."""


def sums_before(values: Tensor, sequence: Tensor) -> Tensor:
    """Returns (N,) float64 sums of the values before each token in its response, itself not counted.

    In float64 the sums of float32 numbers are exact, so that they do not depend on how a batch is split.
    """
    if not len(values):
        return values.double()
    before = values.double().cumsum(0) - values.double()  # (N,) over all responses
    return before - before[_starts(sequence)]


def _starts(sequence: Tensor) -> Tensor:
    """(N,) int64, the first row of each row's response."""
    places = torch.arange(len(sequence), device=sequence.device)
    first = torch.ones_like(sequence, dtype=torch.bool)
    first[1:] = sequence[1:] != sequence[:-1]
    return torch.cummax(torch.where(first, places, 0), 0).values if len(sequence) else places


def _require_exponent(kappa: float) -> None:
    if not 0.0 <= kappa < math.inf:
        raise ValueError(f"kappa must be a finite number >= 0, got {kappa}: it is an exponent, and 1 is the plain gate")
