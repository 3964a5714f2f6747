"""Guidance towards the teacher's top-k distribution, with k soft targets at each position."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tgpo_ray.guidance.loss import require_ids_below
from tgpo_ray.guidance.targets import merge_duplicate_targets
from tgpo_ray.kernels import TokenLoss, TokenRows, fused_token_loss


def topk_guidance_loss(
    topk_policy_logprobs: Tensor, topk_teacher_logprobs: Tensor, mask: Tensor, *, renormalize: bool = True
) -> Tensor:
    """Returns the forward KL on the teacher's top-k tokens K at each position: (...), at least float32.

        renormalize:      L = m sum_K q~ (log q~ - log p~),   q~ = q / sum_K q,   p~ = p / sum_K p
        not renormalize:  L = m sum_K q (log q - log p)                  TrOPD (2606.01249), the outlier term

    The gradients on the logits are p~ - q~ on K and 0 elsewhere, and (sum_K q) p - q 1_K. The first keeps the mass
    outside K, and the second draws it into K. With k = 1 the first is 0 for any policy, so use `guidance_loss` for one
    target.

    Args:
        topk_policy_logprobs: (..., k) nats, the policy's log-probabilities of the teacher's tokens, with gradient.
        topk_teacher_logprobs: (..., k) nats, under the teacher's whole vocabulary; -inf leaves an entry out.
        mask: (...) of guided positions, or (..., k) to leave out entries too, for example those without an id.
    """
    dtype = torch.promote_types(topk_policy_logprobs.dtype, torch.float32)
    entries = mask[..., None] if mask.ndim < topk_policy_logprobs.ndim else mask
    used = (entries > 0) & torch.isfinite(topk_teacher_logprobs)  # (..., k)
    floor = torch.finfo(dtype).min / 4  # finite: -inf would make 0 * inf = NaN, also in the gradient
    log_p = topk_policy_logprobs.to(dtype).masked_fill(~used, floor)
    log_q = topk_teacher_logprobs.detach().to(dtype).masked_fill(~used, floor)
    if renormalize:
        log_p, log_q = torch.log_softmax(log_p, -1), torch.log_softmax(log_q, -1)
    divergence = (log_q.exp() * (log_q - log_p)).masked_fill(~used, 0.0).sum(-1)  # (...)
    return divergence * (entries * used).amax(-1).to(dtype)


def topk_guidance_loss_from_logits(
    logits: Tensor,
    topk_ids: Tensor,
    topk_teacher_logprobs: Tensor,
    mask: Tensor | None = None,
    *,
    renormalize: bool = True,
) -> Tensor:
    """Returns `topk_guidance_loss` (...) from logits (..., V).

    Args:
        logits: (..., V) at the position *before* each response token, divided by the rollout temperature.
        topk_ids: (..., k) int in the policy's vocabulary; -1 where it lacks the token. Equal ids are merged.
        topk_teacher_logprobs: (..., k) nats.
        mask: (...) 1.0 on response tokens; None means everywhere.

    Raises:
        ValueError: the logits have no column for an id.
    """
    require_ids_below(topk_ids, logits.shape[-1])
    ids, teacher_logprobs = merge_duplicate_targets(topk_ids, topk_teacher_logprobs)
    chosen = logits.gather(-1, ids.clamp(min=0).long())  # (..., k)
    logprobs = chosen - torch.logsumexp(logits, -1, keepdim=True)
    entries = _entry_mask(ids, mask, logprobs.dtype)
    return topk_guidance_loss(logprobs, teacher_logprobs, entries, renormalize=renormalize)


def fused_topk_guidance_loss(
    hidden: Tensor,
    weight: Tensor,
    topk_ids: Tensor,
    topk_teacher_logprobs: Tensor,
    mask: Tensor | None = None,
    *,
    renormalize: bool = True,
    temperature: float = 1.0,
) -> Tensor:
    """Returns the sum () of `topk_guidance_loss` over the tokens, with gradient, chunk by chunk.

    Args:
        hidden: (..., D) final hidden states at the position *before* each response token.
        weight: (V, D) of the LM head.
        topk_ids, topk_teacher_logprobs, mask: as for `topk_guidance_loss_from_logits`.
    """
    k = topk_ids.shape[-1]
    ids, teacher_logprobs = merge_duplicate_targets(topk_ids.reshape(-1, k), topk_teacher_logprobs.reshape(-1, k))
    flat_mask = None if mask is None else mask.reshape(-1)
    entries = _entry_mask(ids, flat_mask, torch.promote_types(hidden.dtype, torch.float32))
    rows = TokenRows(
        targets=ids.clamp(min=0).long(),
        target_mask=entries,
        advantages=entries.new_zeros(len(ids)),
        old_logprobs=None,
        sequence=ids.new_zeros(len(ids), dtype=torch.long),
        lengths=entries.new_full((len(ids),), float(len(ids))),
        extra={"teacher.topk_logprobs": teacher_logprobs},
    )
    flat = hidden.reshape(-1, hidden.shape[-1])
    return fused_token_loss(flat, weight, rows, _TopKOnly(renormalize), temperature=temperature).loss


@dataclass(frozen=True)
class _TopKOnly(TokenLoss):
    renormalize: bool

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        teacher_logprobs = rows.extra["teacher.topk_logprobs"]
        return topk_guidance_loss(logprobs, teacher_logprobs, rows.target_mask, renormalize=self.renormalize)


def _entry_mask(ids: Tensor, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
    entries = (ids >= 0).to(dtype)  # (..., k)
    return entries if mask is None else entries * mask[..., None]
