"""Divergences between whole next-token distributions of policy and teacher, chunk by chunk through both heads."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tgpo_ray.kernels.chunks import LEAST_LOGPROB, chunk_budget
from tgpo_ray.kernels.products import add_matmul_, gradient_factor, matmul_into
from tgpo_ray.kernels.transform import HeadWeights, LogitTransform

BUFFERS = 5  # (n, V) matrices in memory at a time: both log-softmaxes, the gradient, and two intermediates


class DivergenceOutput(NamedTuple):
    """The result of `fused_divergence`."""

    loss: Tensor  # () sum over rows of weight times divergence, with gradient
    values: Tensor  # (N,) the divergences, detached, nats


def fused_divergence(
    hidden: Tensor,
    head: HeadWeights,
    teacher_hidden: Tensor,
    teacher_head: HeadWeights,
    row_weights: Tensor,
    beta: float,
    *,
    temperature: float = 1.0,
    chunk_bytes: int | None = None,
) -> DivergenceOutput:
    """Returns the weighted sum over rows of the generalised Jensen-Shannon divergence of teacher q and policy p.

        m = beta q + (1 - beta) p
        D = beta KL(q||m) + (1 - beta) KL(p||m);   beta = 0: KL(q||p);   beta = 1: KL(p||q)
        dD/dz_j = (1 - beta) p_j (log(p_j / m_j) - KL(p||m));   p_j - q_j;   p_j (log(p_j / q_j) - KL(p||q))

    Agarwal et al. 2024 (GKD, 2306.13649), Eq. 1. The two ends are as TRL defines them: D / beta tends to the forward KL
    as beta tends to 0, so the scale jumps there. Both distributions are over the first min(V, V_T) ids, which both
    heads have. Rows beyond these are padding. No [N, V] tensor exists. The biases, scales and soft
    caps of both heads count.

    Args:
        hidden, head: (N, D) and the (V, D) of the policy, whose GEMM is skipped where it is frozen.
        teacher_hidden, teacher_head: (N, D_T) and the (V_T, D_T) of the teacher, without gradient.
        row_weights: (N,) factor of each row. The divergence of rows with factor 0 is given as 0.
        beta: weight of the teacher in m, in [0, 1].
        temperature: divides both models' logits; no factor temperature^2 is added.

    Raises:
        ValueError: beta outside [0, 1], or shapes that do not fit.
    """
    if not 0.0 <= beta <= 1.0:
        raise ValueError(f"beta must be in [0, 1], got {beta}: 0 is the forward KL, 1 the reverse KL")
    weight, teacher_weight = head.weight, teacher_head.weight
    if hidden.shape[1:] != weight.shape[1:] or teacher_hidden.shape[1:] != teacher_weight.shape[1:]:
        raise ValueError(
            f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)}, teacher_hidden "
            f"{tuple(teacher_hidden.shape)} and teacher_weight {tuple(teacher_weight.shape)}: each pair needs one width"
        )
    if not len(hidden) == len(teacher_hidden) == len(row_weights):
        raise ValueError(f"got {len(hidden)}, {len(teacher_hidden)} and {len(row_weights)} rows: they must be as many")
    request = _Request(head.transform, teacher_hidden, teacher_head, row_weights, beta, temperature, chunk_bytes)
    loss, values = _FusedDivergence.apply(hidden, weight, head.bias, request)
    return DivergenceOutput(loss, values)


@dataclass(frozen=True)
class _Request:
    transform: LogitTransform  # the policy's
    teacher_hidden: Tensor
    teacher_head: HeadWeights
    row_weights: Tensor
    beta: float
    temperature: float
    chunk_bytes: int | None


class _FusedDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, request: _Request):
        with torch.autocast(hidden.device.type, enabled=False):
            head = HeadWeights(weight, bias, request.transform)
            gradients, values = _visit_chunks(hidden, head, request, with_weight=ctx.needs_input_grad[1])
        # kept on `ctx`, not by `save_for_backward`: these are finished gradients, and no graph leads to them
        ctx.gradients = gradients
        ctx.mark_non_differentiable(values)
        return (values * request.row_weights).sum(), values

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_loss: Tensor, _):  # pyright: ignore[reportIncompatibleMethodOverride] (decorated)
        gradients, ctx.gradients = ctx.gradients, None  # freed as soon as autograd has them: no second backward
        return *(None if gradient is None else gradient.mul_(grad_loss) for gradient in gradients), None


def _visit_chunks(hidden: Tensor, head: HeadWeights, request: _Request, *, with_weight: bool):
    """Returns the gradients (dHidden (N, D), dWeight (V, D) | None, dBias (V,) | None) and the divergences (N,)."""
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    shared = min(len(head.weight), len(request.teacher_head.weight))  # U ids
    policy, teacher = head.first(shared), request.teacher_head.first(shared)
    policy = replace(policy, weight=policy.weight.to(hidden.dtype))  # a copy only under autocast
    by_hidden, values = torch.zeros_like(hidden), torch.zeros(len(hidden), dtype=dtype, device=hidden.device)
    by_weight = values.new_zeros(head.weight.shape) if with_weight else None
    by_bias = None if head.bias is None else values.new_zeros(len(head.bias))
    indices = _rows_to_visit(request.row_weights)  # (M,) of the N rows
    budget, buffers = chunk_budget(hidden, request.chunk_bytes), BUFFERS + (head.transform.cap is not None)
    for rows in indices.split(max(1, budget // (buffers * shared * dtype.itemsize))):
        states = hidden[rows]  # (n, D)
        log_p, slope = _log_softmax(states, policy, request.temperature, dtype, with_slope=True)  # (n, U) each
        log_q, _ = _log_softmax(request.teacher_hidden[rows], teacher, request.temperature, dtype)
        # (n,), (n, U): the gradient is on the policy's logits over the temperature
        divergences, gradient = divergence_and_gradient(log_p, log_q, request.beta)
        row_weights = request.row_weights[rows]  # (n,)
        values[rows] = torch.where(row_weights != 0, divergences, 0.0)
        gradient.mul_((row_weights / head.transform.temperature(request.temperature))[:, None])
        if slope is not None:
            gradient.mul_(slope)
        if by_bias is not None:
            by_bias[:shared] += gradient.sum(0)
        gradient = gradient_factor(gradient, states.dtype)
        part = states.new_empty(states.shape, dtype=dtype)  # (n, D)
        matmul_into(part, gradient, policy.weight)
        by_hidden[rows] = part.to(by_hidden.dtype)
        if by_weight is not None:
            add_matmul_(by_weight[:shared], gradient.t(), states)
    by_bias = None if by_bias is None or head.bias is None else by_bias.to(head.bias.dtype)
    by_weight = None if by_weight is None else by_weight.to(head.weight.dtype)
    return (by_hidden, by_weight, by_bias), values


def _rows_to_visit(row_weights: Tensor) -> Tensor:
    """(M,) indices of the rows whose weight is not 0. On a GPU, where counting them would wait for it, all rows."""
    if row_weights.device.type == "cpu":
        return row_weights.nonzero()[:, 0]
    return torch.arange(len(row_weights), device=row_weights.device)


def _log_softmax(
    hidden: Tensor, head: HeadWeights, temperature: float, dtype: torch.dtype, *, with_slope: bool = False
) -> tuple[Tensor, Tensor | None]:
    """(n, U) log-probabilities in `dtype`, from logits of at least that precision; the slope of a cap, or None."""
    hidden, transform = hidden.to(head.weight.dtype), head.transform
    precision = torch.promote_types(head.weight.dtype, dtype)
    logits = torch.empty(len(hidden), len(head.weight), dtype=precision, device=hidden.device)
    matmul_into(logits, hidden, head.weight.t())
    if head.bias is not None:
        logits.add_(head.bias)
    slope = torch.empty_like(logits) if with_slope and transform.cap is not None else None
    transform.cap_(logits.div_(transform.divisor(temperature)), temperature, slope)
    return torch.log_softmax(logits.to(dtype), -1).clamp_(min=LEAST_LOGPROB), slope


def divergence_and_gradient(log_p: Tensor, log_q: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Returns (D (n,), dD/dz (n, V)) of `fused_divergence`, from log-probabilities (n, V)."""
    p = log_p.exp()
    if beta == 0.0:
        q = log_q.exp()
        return (q * (log_q - log_p)).sum(-1), p.sub_(q)
    if beta == 1.0:
        ratio = log_p - log_q
        value = (p * ratio).sum(-1)
        return value, p.mul_(ratio.sub_(value[:, None]))
    # log(beta q + (1 - beta) p) without leaving log space, where small probabilities would become 0
    log_m = torch.logaddexp(log_q + math.log(beta), log_p + math.log(1.0 - beta))
    ratio = log_p - log_m
    by_policy = (p * ratio).sum(-1)
    by_teacher = (log_q.exp() * (log_q - log_m)).sum(-1)
    gradient = p.mul_(ratio.sub_(by_policy[:, None])).mul_(1.0 - beta)
    return beta * by_teacher + (1.0 - beta) * by_policy, gradient
