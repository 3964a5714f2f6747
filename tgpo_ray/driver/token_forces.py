"""What a loss does to single tokens: its derivative by the log-prob of the sampled token and of the teacher's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tgpo_ray.kernels import TokenLoss, TokenRows
from tgpo_ray.learners import TrainEpisode, build_batch

PLACEHOLDERS = (-1.0, -2.0)  # nats, in place of log-probs that nobody has kept


@dataclass(frozen=True)
class Learned:
    """What the learners got with a group."""

    advantages: np.ndarray  # (G,)
    loss: TokenLoss


def forces_of(it: TrainEpisode, loss: TokenLoss, logprobs: np.ndarray | None) -> dict[str, Any]:
    """`token_advantages` and `token_guidance` (T,), `gate` (T,) and `guidance_weight`, as far as they are known."""
    if any(name.endswith(".hidden") for name in loss.row_fields):
        return {}  # a divergence of whole distributions, which the driver has not got
    rows = build_batch([it], loss, None, torch.device("cpu")).rows
    forces = token_forces(loss, rows, logprobs)  # (T, K)
    weight = getattr(loss, "guidance_weight", None)
    guidance = forces[:, 1] if forces.shape[1] == 2 else None  # of several targets none is the word
    return {
        "token_advantages": forces[:, 0],
        "token_guidance": guidance,
        "gate": guidance / weight if guidance is not None and weight else None,
        "guidance_weight": None if weight is None else float(weight),
    }


def token_forces(loss: TokenLoss, rows: TokenRows, logprobs: np.ndarray | None) -> np.ndarray:
    """(T, K) -dL/d log pi of the sampled token and of each target, before the step's denominator; NaN where unknown.

    In column 0 that is the advantage of the token with all that the loss adds to it, and in column 1 the weight of the
    teacher's word, gate included. pi is the policy that sampled, so every ratio is 1. Its log-probs of the teacher's
    words were never computed: what is the same for two different ones does not depend on them, and is known.

    Args:
        logprobs: (T,) of the sampled tokens, NaN or None where they were not kept.
    """
    gradients = []
    for placeholder in PLACEHOLDERS:
        leaves = torch.full(rows.targets.shape, placeholder)
        if logprobs is not None:
            sampled = torch.from_numpy(np.asarray(logprobs, np.float32))
            leaves[:, 0] = torch.where(torch.isfinite(sampled), sampled, placeholder)
        gradients.append(-_gradient(loss, rows, leaves))
    first, second = gradients
    known = torch.isclose(first, second, rtol=1e-4, atol=1e-9)  # False where either is NaN
    return torch.where(known, first, torch.nan).numpy()


def _gradient(loss: TokenLoss, rows: TokenRows, leaves: torch.Tensor) -> torch.Tensor:
    entropy = torch.zeros(len(rows)) if loss.needs_entropy else None
    with torch.no_grad():
        rows = loss.prepare(leaves, rows) if loss.needs_sequence else rows
    leaves.requires_grad_()
    with torch.enable_grad():
        total = loss(leaves, entropy, rows).sum()
    if not total.requires_grad:
        return torch.zeros_like(leaves)
    return torch.autograd.grad(total, leaves)[0]
