"""The norms of the gradients of guidance and of the policy loss, as a cheap estimate or exact."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tgpo_ray.kernels import TokenLoss, TokenRows, fused_token_loss


def gradient_ratio(
    guidance_logprobs: Tensor, guidance_coefficients: Tensor, logprobs: Tensor, policy_coefficients: Tensor
) -> tuple[Tensor, Tensor]:
    """Returns the sums over tokens of the gradient norms of (guidance, policy loss). Their quotient is the ratio.

    A loss whose derivative with respect to one log-probability log p_y is c has the gradient c (e_y - p) on that
    token's logits, and (1 - p_y)^2 <= |e_y - p|^2 <= 2 (1 - p_y)^2. So |c| (1 - p_y) gives each norm within a factor
    sqrt(2), from numbers that a trainer already has. `logit_gradient_norms` and `hidden_gradient_norms` are exact.

    Args:
        guidance_logprobs: any shape; the policy's log-probability of the teacher's token.
        guidance_coefficients: same shape; w m^T.
        logprobs: same shape; the policy's log-probability of the sampled token.
        policy_coefficients: same shape; m A r where the clip lets the gradient through, else 0.
    """
    return _cheap_norms(guidance_logprobs, guidance_coefficients), _cheap_norms(logprobs, policy_coefficients)


def _cheap_norms(logprobs: Tensor, coefficients: Tensor) -> Tensor:
    missing = -torch.expm1(logprobs.detach())  # NaN is allowed where the coefficient is 0
    return (coefficients.detach().abs() * missing.masked_fill(coefficients == 0, 0.0)).sum()


def logit_gradient_norms(logits: Tensor, targets: Tensor, coefficients: Tensor) -> Tensor:
    """Returns the exact norm (N,) of each row's gradient on its logits (N, V): |sum_k c_k (e_{y_k} - p)|.

    Args:
        targets: (N, K) ids.
        coefficients: (N, K), dL/dlogprob of each target.
    """
    coefficients = coefficients.to(logits.dtype)
    gradient = torch.softmax(logits.detach(), -1) * -coefficients.sum(-1, keepdim=True)  # (N, V)
    return gradient.scatter_add_(-1, targets.long(), coefficients).norm(dim=-1)


def hidden_gradient_norms(
    hidden: Tensor, weight: Tensor, targets: Tensor, coefficients: Tensor, *, temperature: float = 1.0
) -> Tensor:
    """Returns the exact norm (N,) of each row's gradient on its hidden state (N, D), without a [N, V] tensor.

    The trunk receives this gradient. It costs a pass over the LM head, so use it now and then, not at every step.

    Args:
        weight: (V, D) of the LM head.
        targets, coefficients: (N, K), as for `logit_gradient_norms`.
    """
    coefficients = coefficients.detach()
    rows = TokenRows(
        targets=targets.long(),
        target_mask=torch.ones_like(coefficients),
        advantages=torch.zeros_like(coefficients[:, 0]),
        old_logprobs=None,
        sequence=torch.zeros_like(targets[:, 0], dtype=torch.long),
        lengths=torch.ones_like(coefficients[:, 0]),
        extra={"coefficients": coefficients},
    )
    with torch.enable_grad():  # callers report metrics under `no_grad`
        leaf = hidden.detach().requires_grad_()
        loss = fused_token_loss(leaf, weight.detach(), rows, _Linear(), temperature=temperature).loss
        (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient.norm(dim=-1)


@dataclass(frozen=True)
class _Linear(TokenLoss):
    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        return (rows.extra["coefficients"] * logprobs).sum(-1)


@dataclass(frozen=True)
class GradientComparison:
    """Two gradients on the same parameters: their norms and the cosine of the angle between them."""

    guidance_norm: float
    policy_norm: float
    cosine: float  # 0.0 where one of the two is 0

    @property
    def ratio(self) -> float:
        """The norm of guidance over that of the policy loss; infinite where the policy loss has no gradient."""
        return self.guidance_norm / self.policy_norm if self.policy_norm > 0.0 else float("inf")


def compare_parameter_gradients(
    guidance: Tensor, policy: Tensor, parameters: Iterable[torch.nn.Parameter]
) -> GradientComparison:
    """Returns the exact comparison of the gradients of two scalar losses on the parameters, by two backward passes.

    Both losses must be weighted and normalised as they are in the sum. The graphs stay for the backward pass of the
    training step. Losses of the fused kernel are the exception: they hand their gradient over once, so compute them
    again.
    """
    leaves = [parameter for parameter in parameters if parameter.requires_grad]
    ours = torch.autograd.grad(guidance, leaves, retain_graph=True, allow_unused=True)
    theirs = torch.autograd.grad(policy, leaves, retain_graph=True, allow_unused=True)
    norms = [_sum(_dot(g, g) for g in gradients if g is not None) ** 0.5 for gradients in (ours, theirs)]
    product = _sum(_dot(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None and b is not None)
    scale = norms[0] * norms[1]
    return GradientComparison(norms[0], norms[1], product / scale if scale > 0.0 else 0.0)


def _dot(left: Tensor, right: Tensor) -> Tensor:
    return torch.dot(left.flatten().double(), right.flatten().double())


def _sum(terms: Iterable[Tensor]) -> float:
    return sum(float(term) for term in terms)
