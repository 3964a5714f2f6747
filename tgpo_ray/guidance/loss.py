"""Guidance as a loss, which raises the policy's probability of the teacher's tokens on the policy's responses."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tgpo_ray.kernels import TokenLoss, TokenRows, fused_token_loss


def guidance_loss(guidance_logprobs: Tensor, mask: Tensor) -> Tensor:
    """Returns the negative log-probability of the teacher's token at each position.

        L_it = m_it * -log pi(y^T_it | x_i, y_i<t)

    Teacher-Guided Policy Optimization, Eq. 3, as a quantity to minimise (the paper prints the minus sign inside an
    objective that it maximises). The step divides by the global token count (Z of Eq. 4).

    Args:
        guidance_logprobs: (N,) or any shape, nats; the policy's log-probability of the teacher's argmax token.
        mask: same shape; 1.0 on guided response tokens, 0.0 elsewhere.
    """
    return mask * -guidance_logprobs


def guidance_loss_from_logits(logits: Tensor, teacher_ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """Returns `guidance_loss` (...) from logits (..., V), for a trainer that has them in memory.

    Args:
        logits: (..., V) at the position *before* each response token, divided by the rollout temperature.
        teacher_ids: (...) int, aligned with the response tokens; -1 where there is no guidance.
        mask: (...) 1.0 on response tokens; None means everywhere. Positions with teacher id -1 are always masked.

    Raises:
        ValueError: the logits have no column for a teacher id.
    """
    require_ids_below(teacher_ids, logits.shape[-1])
    guided = _guided_mask(teacher_ids, mask, logits.dtype)
    targets = teacher_ids.clamp(min=0).long().unsqueeze(-1)  # (..., 1)
    chosen = logits.gather(-1, targets).squeeze(-1)  # (...)
    return guidance_loss(chosen - torch.logsumexp(logits, -1), guided)


def fused_guidance_loss(
    hidden: Tensor, weight: Tensor, teacher_ids: Tensor, mask: Tensor | None = None, *, temperature: float = 1.0
) -> Tensor:
    """Returns the sum () of `guidance_loss` over the tokens, with gradient, without a [tokens, vocabulary] tensor.

    Args:
        hidden: (..., D) final hidden states at the position *before* each response token.
        weight: (V, D) of the LM head.
        teacher_ids: (...) int, aligned with the response tokens; -1 where there is no guidance.
        mask: (...) 1.0 on response tokens; None means everywhere.
    """
    ids = teacher_ids.reshape(-1)  # (N,)
    guided = _guided_mask(teacher_ids, mask, torch.promote_types(hidden.dtype, torch.float32)).reshape(-1)
    rows = TokenRows(
        targets=ids.clamp(min=0).long()[:, None],
        target_mask=guided[:, None],
        advantages=torch.zeros_like(guided),
        old_logprobs=None,
        sequence=torch.zeros_like(ids, dtype=torch.long),
        lengths=torch.full_like(guided, float(len(guided))),
    )
    loss = _GuidanceOnly()
    return fused_token_loss(hidden.reshape(-1, hidden.shape[-1]), weight, rows, loss, temperature=temperature).loss


@dataclass(frozen=True)
class _GuidanceOnly(TokenLoss):
    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        return guidance_loss(logprobs[:, 0], rows.mask)


def require_ids_below(ids: Tensor, vocabulary: int) -> None:
    """Raise ValueError if logits of this width have no column for an id.

    On a GPU `gather` with such an id ends the process instead.
    """
    if ids.numel() and int(ids.max()) >= vocabulary:
        raise ValueError(
            f"teacher id {int(ids.max())} is outside [0, {vocabulary}): map teacher ids to the policy's vocabulary "
            "first (VocabularyMap) and leave out what it lacks (guidance_mask)"
        )


def _guided_mask(teacher_ids: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    guided = (teacher_ids >= 0).to(dtype)
    return guided if mask is None else guided * mask
