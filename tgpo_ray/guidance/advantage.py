"""Guidance as reward shaping (TGPO_R): a term for each token, which is added to the advantages."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

Signal = Literal["logp", "prob", "match"]
SIGNALS = ("logp", "prob", "match")


def guidance_advantage(
    guidance_logprobs: Tensor,
    mask: Tensor,
    *,
    signal: Signal = "logp",
    sampled_ids: Tensor | None = None,
    teacher_ids: Tensor | None = None,
) -> Tensor:
    """Returns the shaping term s (N,), without gradient. The caller adds `weight * s` to the advantages.

        logp:   s = m log pi_old(y^T)      Teacher-Guided Policy Optimization, Eq. 5; never positive
        prob:   s = m pi_old(y^T)          what the authors' code does; in [0, 1]
        match:  s = m 1[y = y^T]           the paper's sentence "rewards the student's token when it obtains approval"

    `logp` and `prob` depend on the state and not on the sampled token. Their expected policy gradient is exactly 0, so
    they add only variance. `match` depends on the action. Its expected gradient is that of guidance, weighted by the
    policy's own pi(y^T).

    Args:
        guidance_logprobs: (N,) or any shape, nats; the policy's log-probability of the teacher's token, under the
            weights that sampled.
        mask: same shape; 1.0 on guided response tokens.
        sampled_ids, teacher_ids: same shape; only `match` needs them.

    Raises:
        ValueError: an unknown signal, or `match` without ids.
    """
    if signal == "logp":
        return (mask * guidance_logprobs).detach()
    if signal == "prob":
        return (mask * torch.exp(guidance_logprobs)).detach()
    if signal != "match":
        raise ValueError(f"signal must be one of {', '.join(SIGNALS)}, got {signal!r}")
    if sampled_ids is None or teacher_ids is None:
        raise ValueError("signal 'match' compares tokens: pass sampled_ids and teacher_ids")
    return mask * (sampled_ids == teacher_ids).to(mask.dtype)
