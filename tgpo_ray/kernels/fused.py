"""The value and gradient of a token-level loss, in one visit to each chunk of logits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from tgpo_ray.kernels.chunks import HeadChunks, SoftmaxChunk, block_rows, check_head_inputs
from tgpo_ray.kernels.products import add_matmul_, gradient_factor, matmul_into
from tgpo_ray.kernels.rows import LossOutput, TokenLoss, TokenRows
from tgpo_ray.kernels.transform import PLAIN, LogitTransform


def fused_token_loss(
    hidden: Tensor,
    weight: Tensor,
    rows: TokenRows,
    loss: TokenLoss,
    *,
    temperature: float = 1.0,
    bias: Tensor | None = None,
    transform: LogitTransform = PLAIN,
    chunk_bytes: int | None = None,
) -> LossOutput:
    """Returns the unnormalised sum of `loss` over the rows. Its gradient is ready when this returns.

        z = transform(h W^T + b) / temperature,   p = softmax(z),   c_k = dL/dlogprob_k,   c_H = dL/dentropy
        dL/dz = sum_k c_k e_{y_k} - p sum_k c_k - c_H p (log p + H)

    The coefficients of a row depend only on that row. So logits, log-probabilities, coefficients, dHidden and dWeight
    are formed while a chunk of logits is in memory. That takes three GEMMs and one buffer for any N, a further one with
    entropy and with a soft cap.
    The backward pass hands the gradients over, once.

    Args:
        hidden: (N, D), each state of the position before its target, in float32, float64 or half precision. With half
            precision logits, losses and weight gradients are still summed in float32.
        weight: (V, D) of the LM head; `bias` (V,). Either may be frozen, and then its GEMM is skipped.
        transform: what the model does to the head's logits: a scale, a soft cap.
        chunk_bytes: budget of the logits buffers. None means 56 MiB on a CPU and 512 MiB on a GPU.

    Raises:
        ValueError: shapes that do not fit, a target outside [0, V), or a loss that does not return (N,).
    """
    check_head_inputs(hidden, weight, bias, rows.targets, temperature)
    grad_enabled = torch.is_grad_enabled()  # inside `forward` it is always False
    request = _Request(rows, loss, temperature, transform, chunk_bytes, grad_enabled)
    total, logprobs, entropy = _FusedTokenLoss.apply(hidden, weight, bias, request)
    return LossOutput(total, logprobs, entropy, rows)


@dataclass(frozen=True)
class _Request:
    rows: TokenRows
    loss: TokenLoss
    temperature: float
    transform: LogitTransform
    chunk_bytes: int | None
    grad_enabled: bool


class _FusedTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden: Tensor, weight: Tensor, bias: Tensor | None, request: _Request):
        needed = tuple(request.grad_enabled and needs for needs in ctx.needs_input_grad[:3])
        with torch.autocast(hidden.device.type, enabled=False):
            ctx.gradients, (total, logprobs, entropy) = _visit_chunks(hidden, weight, bias, request, needed)
        ctx.mark_non_differentiable(*[tensor for tensor in (logprobs, entropy) if tensor is not None])
        return total, logprobs, entropy

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_total: Tensor, *_unused):  # pyright: ignore[reportIncompatibleMethodOverride] (decorated)
        # without another reference to dWeight, autograd makes it the .grad and needs no copy
        gradients, ctx.gradients = ctx.gradients, None
        if gradients is None:
            raise RuntimeError("the gradient of fused_token_loss was already handed over: call it again, not backward")
        # on a CPU a factor of 1 saves a pass over dWeight; on a GPU `item` would wait for the device
        if grad_total.device.type != "cpu" or grad_total.item() != 1.0:
            for gradient in filter(lambda g: g is not None, gradients):
                gradient.mul_(grad_total)
        return *gradients, None


def _visit_chunks(hidden: Tensor, weight: Tensor, bias: Tensor | None, request: _Request, needed: tuple):
    """Returns gradients (dHidden, dWeight, dBias), each None where not needed, and (loss, logprobs, entropy)."""
    rows, with_entropy = request.rows, request.loss.needs_entropy
    chunks = HeadChunks(
        hidden,
        weight,
        bias,
        temperature=request.temperature,
        transform=request.transform,
        with_entropy=with_entropy,
        with_slope=any(needed),
        chunk_bytes=request.chunk_bytes,
    )
    gradients = _HeadGradients(chunks, needed)
    total = torch.zeros((), dtype=chunks.dtype, device=hidden.device)
    logprobs = total.new_empty(rows.targets.shape)  # (N, K)
    entropy = total.new_empty(len(rows)) if with_entropy else None  # (N,)
    for start, stop in chunks.bounds():
        part = rows.slice(start, stop)
        chunk = chunks.visit(start, stop, part.targets)
        value, coefficients = _loss_and_coefficients(request.loss, chunk, part, any(needed))
        total += value
        logprobs[start:stop] = chunk.logprobs
        if entropy is not None and chunk.entropy is not None:
            entropy[start:stop] = chunk.entropy
        if coefficients is not None:
            gradients.add(start, stop, chunk, part.targets, *coefficients)
    return gradients.finish(weight, bias), (total, logprobs, entropy)


def _loss_and_coefficients(loss: TokenLoss, chunk: SoftmaxChunk, rows: TokenRows, grad_needed: bool):
    """Returns the summed loss and (dL/dlogprobs (n, K), dL/dentropy (n,) | None), or None without a gradient."""
    with torch.set_grad_enabled(grad_needed):  # inside `forward` autograd is off, and the loss needs a small graph
        logprobs = chunk.logprobs.detach().requires_grad_(grad_needed)
        entropy = None if chunk.entropy is None else chunk.entropy.detach().requires_grad_(grad_needed)
        values = loss(logprobs, entropy, rows)
        if values.shape != (len(rows),):
            raise ValueError(
                f"{type(loss).__name__} must return one loss for each row, ({len(rows)},), got {tuple(values.shape)}: "
                "losses are unnormalised and summed by the kernel"
            )
        value = values.sum()
    if not value.requires_grad:
        return value, None
    leaves = (logprobs,) if entropy is None else (logprobs, entropy)
    grads = torch.autograd.grad(value, leaves, allow_unused=True)
    by_logprob = torch.zeros_like(logprobs) if grads[0] is None else grads[0]
    return value.detach(), (by_logprob, grads[1] if len(grads) == 2 else None)


class _HeadGradients:
    """The sums of dHidden (N, D), dWeight (V, D) and dBias (V,) over the chunks."""

    def __init__(self, chunks: HeadChunks, needed: tuple[bool, bool, bool]):
        self.chunks = chunks
        self.weight_needed = needed[1]
        self.hidden = torch.zeros_like(chunks.hidden) if needed[0] else None
        self.weight: Tensor | None = None  # the first chunk makes it, which saves adding to zeros
        self.bias = self._zeros(chunks.weight.shape[0]) if needed[2] else None

    def _zeros(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=self.chunks.dtype, device=self.chunks.hidden.device)

    def add(self, start: int, stop: int, chunk: SoftmaxChunk, targets: Tensor, by_logprob, by_entropy) -> None:
        """Add the gradients of one chunk. Row factors and target entries are applied outside the (n, V) matrix.

        With G (n, V) and a row factor f: dL/dz = f G + sum_k c_k e_{y_k}, so that
        dHidden = f (G W) + sum_k c_k W[y_k] and dWeight = G^T (f h) with c_k h added to row y_k.
        """
        by_logprob = by_logprob.to(self.chunks.dtype) / self.chunks.temperature  # (n, K)
        matrix, factor = self._softmax_gradient(chunk, by_logprob, by_entropy)
        if chunk.slope is not None:  # a soft cap: every entry of dL/dz has a factor of its own
            by_logprob = by_logprob * chunk.slope.gather(1, targets)
            matrix.mul_(chunk.slope)
        hidden = self.chunks.hidden[start:stop]
        matrix_gemm = gradient_factor(matrix, hidden.dtype)
        if self.hidden is not None:
            self.hidden[start:stop] = self._hidden_gradient(matrix_gemm, factor, targets, by_logprob)
        if self.weight_needed:
            self._add_weight_gradient(matrix_gemm, factor, hidden, targets, by_logprob)
        if self.bias is not None:
            self.bias.addmv_(matrix.t(), factor[:, 0])
            self.bias.index_add_(0, targets.flatten(), by_logprob.flatten())

    def _softmax_gradient(self, chunk: SoftmaxChunk, by_logprob: Tensor, by_entropy: Tensor | None):
        """Returns G (n, V) and f (n, 1), with f G = -p sum_k c_k - c_H p (log p + H)."""
        total = by_logprob.sum(-1, keepdim=True)  # (n, 1)
        if by_entropy is None or chunk.entropy is None or chunk.log_probabilities is None:
            return chunk.numerators, -total if chunk.scale is None else -total * chunk.scale
        slope = by_entropy.to(total.dtype)[:, None] / self.chunks.temperature  # (n, 1)
        offset = total + slope * chunk.entropy[:, None]  # (n, 1)
        rows = block_rows(chunk.numerators)
        parts = (chunk.log_probabilities, chunk.numerators, slope, offset)
        for logs, probabilities, a, b in zip(*(part.split(rows) for part in parts), strict=True):
            probabilities.mul_(logs.mul_(a).add_(b))  # p (c_H log p + sum_k c_k + c_H H), over the reused buffers
        return chunk.numerators, -torch.ones_like(total)

    def _hidden_gradient(self, matrix: Tensor, factor: Tensor, targets: Tensor, by_logprob: Tensor) -> Tensor:
        gradient = factor.new_empty(len(matrix), self.chunks.weight.shape[1])  # (n, D)
        matmul_into(gradient, matrix, self.chunks.weight)
        gradient.mul_(factor)
        for k in range(targets.shape[1]):
            gradient.addcmul_(by_logprob[:, k, None], self.chunks.weight[targets[:, k]].to(gradient.dtype))
        return gradient

    def _add_weight_gradient(self, matrix, factor: Tensor, hidden: Tensor, targets: Tensor, by_logprob: Tensor) -> None:
        hidden = hidden.to(factor.dtype)  # (n, D)
        scaled = (hidden * factor).to(matrix.dtype)  # (n, D)
        if self.weight is None:
            self.weight = torch.empty(self.chunks.weight.shape, dtype=factor.dtype, device=factor.device)
            matmul_into(self.weight, matrix.t(), scaled)
        else:
            add_matmul_(self.weight, matrix.t(), scaled)
        for k in range(targets.shape[1]):
            self.weight.index_add_(0, targets[:, k], hidden * by_logprob[:, k, None])

    def finish(self, weight: Tensor, bias: Tensor | None) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Returns the gradients in the dtypes of hidden, weight and bias."""
        if self.weight_needed and self.weight is None:  # no rows, or none whose loss depends on the head
            self.weight = self._zeros(*weight.shape)
        by_weight = None if self.weight is None else self.weight.to(weight.dtype)
        by_bias = None if self.bias is None or bias is None else self.bias.to(bias.dtype)
        return self.hidden, by_weight, by_bias
