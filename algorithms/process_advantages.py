"""PRIME's advantages, with numpy only: process and outcome rewards, leave-one-out, returns, whitening.

Shapes: a batch is a list of groups. A group is a list of G arrays (T_i,), a number for each of the policy's tokens.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .advantages import leave_one_out

Batch = list[list[np.ndarray]]


def returns_to_go(rewards: np.ndarray) -> np.ndarray:
    """(T,) sum_{s >= t} r_s."""
    return np.cumsum(rewards[::-1])[::-1]


def normalized_by_peak(batch: Batch) -> Batch:
    """r / (max over the batch of |return to go| + 1e-6), PRIME's `batch_norm`, which removes the scale of r."""
    peak = max((float(np.abs(returns_to_go(r)).max()) for group in batch for r in group if len(r)), default=0.0)
    return [[r / (peak + 1e-6) for r in group] for group in batch]


def process_leave_one_out(group: Sequence[np.ndarray]) -> list[np.ndarray]:
    """r_{i,t} - sum_{j != i} mean_t r_j / (G - 1).

    PRIME (2502.01456), its process RLOO. The authors' code has n/(n-1) r_{i,t} instead of r_{i,t} and the mean over all
    j, which differs by (r_{i,t} - mean_t r_i) / (n - 1).
    """
    if len(group) < 2:
        raise ValueError(
            f"group_size must be >= 2, got {len(group)}: leaving one out leaves no response to compare with"
        )
    means = np.asarray([r.mean() if len(r) else 0.0 for r in group])  # (G,)
    others = (means.sum() - means) / (len(group) - 1)  # (G,)
    return [r - other for r, other in zip(group, others, strict=True)]


def whitened(batch: Batch) -> Batch:
    """(A - mean) / sqrt(var + 1e-8) over all tokens of the batch, ddof = 1."""
    flat = np.concatenate([a for group in batch for a in group])  # all tokens of the batch
    scale = 1.0 / np.sqrt((flat.var(ddof=1) if len(flat) > 1 else 1.0) + 1e-8)
    return [[(a - flat.mean()) * scale for a in group] for group in batch]


def prime_advantages(process: Batch, outcomes: Sequence[np.ndarray]) -> Batch:
    """A = whiten(sum_{s >= t} process_s + outcome), both sources leave-one-out in their group with weight 1.

    PRIME (2502.01456), section 3.2 and Algorithm 1, gamma = 1. The outcome is paid at the last token, so the return of
    every token contains all of it.

    Args:
        process: log pi_PRM - log pi_ref of each token (times any constant).
        outcomes: (G,) verifier rewards of each group.
    """
    batch = [process_leave_one_out(group) for group in normalized_by_peak(process)]
    return whitened(
        [
            [returns_to_go(r) + outcome for r, outcome in zip(group, leave_one_out(rewards), strict=True)]
            for group, rewards in zip(batch, outcomes, strict=True)
        ]
    )
