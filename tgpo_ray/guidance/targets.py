"""The tokens that the policy learns at each position (the teacher's argmax, a sample or its top-k), and their mask."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor


def argmax_targets(teacher_logits: Tensor) -> Tensor:
    """Returns the teacher's likeliest token (...) int64 from logits (..., V): TGPO's target at any temperature."""
    return teacher_logits.argmax(-1)


def sampled_targets(
    teacher_logits: Tensor, *, temperature: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Returns a token (...) int64 drawn from softmax(teacher_logits / temperature).

    The expected guidance loss of these targets is the cross-entropy of teacher and policy. Its gradient is that of the
    forward KL(pi_T || pi). Argmax targets imitate only the mode.

    Raises:
        ValueError: the temperature is not above 0.
    """
    if not temperature > 0.0:
        raise ValueError(f"temperature must be > 0, got {temperature}: for greedy targets use argmax_targets")
    probabilities = torch.softmax(teacher_logits / temperature, -1)
    # `multinomial` takes (N, V) only
    tokens = torch.multinomial(probabilities.reshape(-1, probabilities.shape[-1]), 1, generator=generator)  # (N, 1)
    return tokens.view(teacher_logits.shape[:-1])


def topk_targets(teacher_logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Returns the teacher's k likeliest tokens and their log-probabilities, both (..., k), the likeliest first.

    The log-probabilities are under the whole vocabulary.

    Raises:
        ValueError: k outside 1..V.
    """
    if not 1 <= k <= teacher_logits.shape[-1]:
        raise ValueError(f"k must be in 1..{teacher_logits.shape[-1]}, the vocabulary's size, got {k}")
    logits, ids = teacher_logits.topk(k, -1)
    return ids, logits - torch.logsumexp(teacher_logits, -1, keepdim=True)


def merge_duplicate_targets(topk_ids: Tensor, topk_logprobs: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the targets (..., k) with the probabilities of equal ids added in the first of them.

    The other equal ids become -1. Example: ids 7, 3, 7 with probabilities .5, .3, .1 become 7, 3, -1 with .6, .3, 0.

    Two teacher tokens can become one policy token when they are mapped into another vocabulary. Both can be ends of
    sequence, or begin with the same piece.
    """
    ids, order = topk_ids.sort(dim=-1, stable=True)  # stable: the first of equal ids stays the first
    starts = torch.ones_like(ids, dtype=torch.bool)
    starts[..., 1:] = ids[..., 1:] != ids[..., :-1]
    group = starts.long().cumsum(-1) - 1  # (..., k) index of the run of equal ids
    probabilities = topk_logprobs.exp().gather(-1, order)
    sums = torch.zeros_like(probabilities).scatter_add(-1, group, probabilities).gather(-1, group)
    is_target = starts & (ids >= 0)  # (..., k)
    # scattered by `order`, which undoes the sort
    merged_ids = torch.empty_like(ids).scatter(-1, order, ids.masked_fill(~is_target, -1))
    merged = torch.empty_like(sums).scatter(-1, order, sums.log().masked_fill(~is_target, -torch.inf))
    return merged_ids, merged


def guidance_mask(
    teacher_ids: Tensor,
    response_mask: Tensor | None = None,
    *,
    vocab_size: int | None = None,
    special_ids: Collection[int] = (),
    eos_ids: Collection[int] = (),
    mask_eos: bool = False,
    sampled_ids: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Returns 1.0 where the policy may learn the teacher's token and 0.0 elsewhere, in the shape of `teacher_ids`.

        m^T = m 1[0 <= y^T < vocab_size] 1[y^T not special, or an end of sequence]

    Args:
        teacher_ids: (...) in the policy's ids; -1 where there is no guidance. (N, k) for top-k targets.
        response_mask: broadcastable; 1.0 on tokens that the policy wrote; None means everywhere.
        vocab_size: number of ids of the policy's *tokenizer*. The head often has more rows, which no text trains.
        special_ids: the policy's special tokens. Guidance teaches none of them except `eos_ids`.
        eos_ids: the ids that the policy's sampler stops on.
        mask_eos: whether to leave out ends of sequence: where the teacher's token is one and, with `sampled_ids`, where
            the policy wrote one. A teacher with another end would only punish the policy's end there.
        sampled_ids: broadcastable; the tokens that the policy wrote.

    Raises:
        ValueError: `mask_eos` without `eos_ids`.
    """
    if mask_eos and not eos_ids:
        raise ValueError("mask_eos needs eos_ids: the ids that the policy stops on")
    taught = teacher_ids >= 0
    if vocab_size is not None:
        taught = taught & (teacher_ids < vocab_size)
    taught = taught & ~_is_one_of(teacher_ids, set(special_ids) - set(eos_ids))
    if mask_eos:
        taught = taught & ~_is_one_of(teacher_ids, eos_ids)
        if sampled_ids is not None:
            taught = taught & ~_is_one_of(sampled_ids, eos_ids)
    mask = taught.to(dtype)
    return mask if response_mask is None else mask * response_mask.to(dtype)


def _is_one_of(ids: Tensor, some: Collection[int]) -> Tensor:
    if not some:
        return torch.zeros_like(ids, dtype=torch.bool)
    return torch.isin(ids, torch.tensor(sorted(some), dtype=ids.dtype, device=ids.device))
