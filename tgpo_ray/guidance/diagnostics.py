"""Figures of one batch that show whether guidance works, as sums over micro-batches and ranks or as floats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from tgpo_ray.guidance.divergence import (
    SumCount,
    best_logprobs,
    kl_k3,
    log_ratio,
    log_ratio_quantile,
    masked_mean_parts,
    share_above,
)
from tgpo_ray.guidance.gradients import gradient_ratio
from tgpo_ray.guidance.translator import UNREADABLE_LOGPROB
from tgpo_ray.kernels import HeadChunks, TokenRows

Sums = dict[str, SumCount]
POSITION_EDGES = (64, 256, 1024, 4096)
LOG_RATIO_BOUND = 5.0  # nats: the teacher finds the token e^5 = 148 times less likely than the policy does


@dataclass(frozen=True)
class GuidanceBatch:
    """The tensors that a trainer has of a batch, one entry for each response token. All have one shape, which is free.

    None means that a tensor is unknown. Every figure that the known tensors allow is computed.
    """

    mask: Tensor  # 1.0 on tokens that the policy wrote
    sampled_ids: Tensor
    teacher_ids: Tensor  # in the policy's ids; -1: no guidance here
    guidance_logprobs: Tensor | None = None  # the policy's log-probability of the teacher's token
    logprobs: Tensor | None = None  # the policy's, of the sampled token
    teacher_logprobs: Tensor | None = None  # the teacher's, of the sampled token; NaN where it has not scored
    scored: Tensor | None = None  # 0.0 where `teacher_logprobs` is a placeholder: the teacher cannot read the token
    target_logprobs: Tensor | None = None  # the teacher's, of its own token; NaN where it gave none
    topk_ids: Tensor | None = None  # (..., k), the teacher's likeliest tokens; -1 where one is missing
    policy_argmax: Tensor | None = None
    advantages: Tensor | None = None
    groups: Tensor | None = None  # int; the group, or the episode, of a token
    positions: Tensor | None = None  # int; index of the token in its response
    vocab_size: int | None = None  # how many ids the policy's tokenizer has

    @property
    def guided(self) -> Tensor:
        """The mask that is 1.0 where the policy learns a teacher's token."""
        known = self.teacher_ids >= 0
        if self.vocab_size is not None:
            known = known & (self.teacher_ids < self.vocab_size)
        return self.mask * known

    @classmethod
    def from_rows(cls, logprobs: Tensor, rows: TokenRows, *, scorer: str = "teacher") -> GuidanceBatch:
        """Returns the batch of the rows in `TokenLoss.metrics`, whose column 1 is the teacher's token.

        `rows.extra` may hold more of the scorer. Without a column 1 (log-ratio methods) there are no targets. Here each
        episode is a group, because all advantages of a group with equal rewards are 0.
        """
        has_targets = rows.targets.shape[1] > 1
        none = torch.full_like(rows.targets[:, 0], -1)  # (N,)
        topk = rows.extra.get(f"{scorer}.topk_logprobs")
        teacher_logprobs = rows.extra.get(f"{scorer}.teacher_logprobs")
        return cls(
            mask=rows.mask,
            sampled_ids=rows.targets[:, 0],
            teacher_ids=torch.where(rows.target_mask[:, 1] > 0, rows.targets[:, 1], none) if has_targets else none,
            guidance_logprobs=logprobs[:, 1] if has_targets else None,
            logprobs=logprobs[:, 0],
            teacher_logprobs=teacher_logprobs,
            scored=None if teacher_logprobs is None else (teacher_logprobs != UNREADABLE_LOGPROB).to(rows.mask.dtype),
            target_logprobs=None if topk is None else best_logprobs(topk),
            topk_ids=rows.extra.get(f"{scorer}.topk_ids"),
            advantages=rows.advantages,
            groups=rows.sequence,
            positions=positions_in_sequence(rows.sequence),
        )

    @classmethod
    def from_logits(cls, logits: Tensor, sampled_ids: Tensor, teacher_ids: Tensor, mask: Tensor) -> GuidanceBatch:
        """Returns the batch for logits (..., V) in memory; `dataclasses.replace` adds the other tensors.

        Args:
            logits: (..., V) at the position *before* each response token, divided by the rollout temperature.
            sampled_ids, teacher_ids, mask: (...); for (B, T) the positions are counted along T, where mask is 1.
        """
        normalizer = torch.logsumexp(logits.detach(), -1)

        def logprobs_of(ids: Tensor) -> Tensor:
            inside = ids.clamp(0, logits.shape[-1] - 1).long()  # -1 and foreign ids: `guided` masks their values
            return logits.detach().gather(-1, inside.unsqueeze(-1)).squeeze(-1) - normalizer

        return cls(
            mask=mask,
            sampled_ids=sampled_ids,
            teacher_ids=teacher_ids,
            guidance_logprobs=logprobs_of(teacher_ids),
            logprobs=logprobs_of(sampled_ids),
            policy_argmax=logits.argmax(-1),
            positions=(mask > 0).long().cumsum(-1) - 1 if mask.ndim > 1 else None,
        )


@torch.no_grad()
def policy_argmax(hidden: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Returns the policy's likeliest token (N,) int64 from hidden states (N, D) and head (V, D), chunk by chunk.

    It costs a pass over the LM head, so use it now and then, on a few hundred rows.
    """
    chunks = HeadChunks(hidden, weight, bias)
    unused = torch.zeros(len(hidden), 1, dtype=torch.long, device=hidden.device)  # (N, 1) targets of `visit`
    ids = unused[:, 0].clone()
    for start, stop in chunks.bounds():
        ids[start:stop] = chunks.visit(start, stop, unused[start:stop]).numerators.argmax(-1)
    return ids


def positions_in_sequence(sequence: Tensor) -> Tensor:
    """Returns the index (N,) of each row in its run of equal `sequence` (N,): 0 0 0 1 1 gives 0 1 2 0 1."""
    places = torch.arange(len(sequence), device=sequence.device)
    starts = torch.ones_like(sequence, dtype=torch.bool)
    starts[1:] = sequence[1:] != sequence[:-1]
    # `cummax` of the starts is the start of each row's own run
    return places - torch.cummax(torch.where(starts, places, 0), 0).values if len(sequence) else places


def agreement(ids: Tensor, teacher_ids: Tensor, mask: Tensor) -> SumCount:
    """Returns (count, total) of the tokens where `ids`, the policy's sample or argmax, are the teacher's."""
    return masked_mean_parts((ids == teacher_ids).to(mask.dtype), mask)


def teacher_confidence(target_logprobs: Tensor, ids: Tensor, teacher_ids: Tensor, mask: Tensor) -> SumCount:
    """Returns (sum, count) of the teacher's probability of its own token, where that differs from `ids`."""
    return masked_mean_parts(target_logprobs.exp(), mask * (ids != teacher_ids) * torch.isfinite(target_logprobs))


def topk_agreement(ids: Tensor, topk_ids: Tensor, mask: Tensor) -> SumCount:
    """Returns (count, total) of the tokens where `ids` (...) is one of the teacher's likeliest `topk_ids` (..., k)."""
    return masked_mean_parts((ids[..., None] == topk_ids).any(-1).to(mask.dtype), mask)


def out_of_vocabulary(teacher_ids: Tensor, mask: Tensor, vocab_size: int | None = None) -> SumCount:
    """Returns (count, total) of the tokens with a teacher id that the policy cannot learn: -1, or >= `vocab_size`."""
    outside = teacher_ids < 0
    if vocab_size is not None:
        outside = outside | (teacher_ids >= vocab_size)
    return masked_mean_parts(outside.to(mask.dtype), mask)


def zero_advantage_taught(advantages: Tensor, guided: Tensor, mask: Tensor, groups: Tensor) -> SumCount:
    """Returns (number that guidance teaches, number) of the groups without advantage, whose rewards are equal."""
    ordered, places = groups.flatten().sort()  # (N,)
    starts = torch.zeros_like(places)
    starts[1:] = ordered[1:] != ordered[:-1]
    index = torch.empty_like(places).scatter(0, places, starts.cumsum(0))  # (N,) in 0 .. number of groups - 1

    def present(values: Tensor) -> Tensor:
        # (N,), an entry for each group and zeros: the exact number of groups would have to come from the device
        counts = torch.zeros(len(index), device=values.device)
        return counts.index_add(0, index, (values != 0).flatten().float()) > 0

    idle = present(mask) & ~present(advantages * mask)
    return (idle & present(guided)).sum().to(mask.dtype), idle.sum().to(mask.dtype)


def by_position(
    name: str, values: Tensor, mask: Tensor, positions: Tensor, edges: Sequence[int] = POSITION_EDGES
) -> Sums:
    """Returns (sum, count) of `values` in each stretch of responses: `name/0-63`, `name/64-255`, ..., `name/4096+`."""
    stretches = list(pairwise([0, *edges]))
    sums = {
        f"{name}/{low}-{high - 1}": masked_mean_parts(values, mask * ((positions >= low) & (positions < high)))
        for low, high in stretches
    }
    last = stretches[-1][1] if stretches else 0
    return sums | {f"{name}/{last}+": masked_mean_parts(values, mask * (positions >= last))}


def diagnostic_sums(
    batch: GuidanceBatch,
    *,
    guidance_weight: float | Tensor | None = None,
    edges: Sequence[int] = POSITION_EDGES,
    bound: float = LOG_RATIO_BOUND,
) -> Sums:
    """Returns every figure that the batch allows, as name -> (sum, count), which is the form of `TokenLoss.metrics`.

    `guidance/log_ratio_p95` is the quantile of the batch, weighted by its count. So micro-batches give the mean of
    their quantiles. For the quantile of all tokens, add `log_ratio_histogram`s.

    Args:
        guidance_weight: w_t, or with a gate w_t times its factor at each token, for `guidance/gradient_ratio` and the
            norms in it. None leaves these figures out.
        edges: where the stretches of the response begin, for the figures by position.
        bound: nats, of `guidance/log_ratio_above`.
    """
    sums = _target_sums(batch, edges) | _divergence_sums(batch, edges, bound)
    if batch.advantages is not None:
        if batch.groups is not None:
            taught = zero_advantage_taught(batch.advantages, batch.guided, batch.mask, batch.groups)
            sums["guidance/zero_advantage_taught"] = taught
        if guidance_weight is not None and batch.guidance_logprobs is not None and batch.logprobs is not None:
            policy = batch.mask * batch.advantages
            ratio = gradient_ratio(batch.guidance_logprobs, guidance_weight * batch.guided, batch.logprobs, policy)
            count = batch.mask.sum()
            sums["guidance/gradient_ratio"] = ratio
            sums |= {"guidance/gradient_norm": (ratio[0], count), "policy/gradient_norm": (ratio[1], count)}
    return sums


def guidance_diagnostics(
    batch: GuidanceBatch,
    *,
    guidance_weight: float | Tensor | None = None,
    edges: Sequence[int] = POSITION_EDGES,
    bound: float = LOG_RATIO_BOUND,
) -> dict[str, float]:
    """Returns `diagnostic_sums` as plain floats, for a log. A figure over no token is left out."""
    sums = diagnostic_sums(batch, guidance_weight=guidance_weight, edges=edges, bound=bound)
    return {name: float(total / count) for name, (total, count) in sums.items() if float(count) > 0.0}


def _target_sums(batch: GuidanceBatch, edges: Sequence[int]) -> Sums:
    guided = batch.guided
    sums = {
        "guidance/coverage": (guided.sum(), batch.mask.sum()),
        "guidance/out_of_vocabulary": out_of_vocabulary(batch.teacher_ids, batch.mask, batch.vocab_size),
        "guidance/agreement": agreement(batch.sampled_ids, batch.teacher_ids, guided),
    }
    if batch.positions is not None:
        equal = (batch.sampled_ids == batch.teacher_ids).to(guided.dtype)
        sums |= by_position("guidance/agreement", equal, guided, batch.positions, edges)
    if batch.policy_argmax is not None:
        sums["guidance/argmax_agreement"] = agreement(batch.policy_argmax, batch.teacher_ids, guided)
        if batch.positions is not None:
            equal = (batch.policy_argmax == batch.teacher_ids).to(guided.dtype)
            sums |= by_position("guidance/argmax_agreement", equal, guided, batch.positions, edges)
    if batch.guidance_logprobs is not None:
        sums["guidance/nll"] = masked_mean_parts(-batch.guidance_logprobs, guided)
    if batch.target_logprobs is not None:
        parts = teacher_confidence(batch.target_logprobs, batch.sampled_ids, batch.teacher_ids, guided)
        sums["guidance/confidence_where_different"] = parts
        confident = guided * torch.isfinite(batch.target_logprobs)
        sums["guidance/confidence"] = masked_mean_parts(batch.target_logprobs.exp(), confident)
    if batch.topk_ids is not None:
        sums["guidance/topk_agreement"] = topk_agreement(batch.sampled_ids, batch.topk_ids, guided)
    return sums


def _divergence_sums(batch: GuidanceBatch, edges: Sequence[int], bound: float) -> Sums:
    if batch.logprobs is None or batch.teacher_logprobs is None:
        return {}
    ratio = log_ratio(batch.logprobs, batch.teacher_logprobs)
    mask = batch.mask * torch.isfinite(batch.teacher_logprobs)
    mask = mask if batch.scored is None else mask * batch.scored
    count = mask.sum()
    quantile = log_ratio_quantile(ratio, mask).nan_to_num(0.0)
    sums = {
        "guidance/log_ratio": masked_mean_parts(ratio, mask),
        "guidance/log_ratio_p95": (quantile * count, count),
        "guidance/log_ratio_above": share_above(ratio, mask, bound),
        "guidance/kl_k3": masked_mean_parts(kl_k3(ratio), mask),
    }
    if batch.positions is not None:
        sums |= by_position("guidance/log_ratio", ratio, mask, batch.positions, edges)
    return sums
