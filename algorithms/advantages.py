"""Advantages from rewards, one number for each episode. The driver computes them, with numpy only.

Shapes: rewards and advantages are (P, G), a row of G episodes for each prompt, or (G,) for one group.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup


def group_standardized(rewards: np.ndarray, epsilon: float = 1e-6) -> np.ndarray:
    """(R - mean_G R) / (std_G R + epsilon), the deviation with ddof = 1.

    DeepSeekMath (2402.03300), section 4.1.2, and the GRPO++ of Teacher-Guided Policy Optimization. Equal rewards give
    exactly 0. A group of one has mean 0 and deviation 1, so its advantage is its reward (as verl does).
    """
    rewards = _checked(rewards)
    if rewards.shape[-1] == 1:  # ddof = 1 would divide by 0
        return rewards / (1.0 + epsilon)
    return mean_centered(rewards) / (rewards.std(axis=-1, ddof=1, keepdims=True) + epsilon)


def mean_centered(rewards: np.ndarray) -> np.ndarray:
    """R - mean_G R, Dr. GRPO (2503.20783), Eq. 3. Equal rewards give exactly 0."""
    rewards = _checked(rewards)
    # From the first reward, because the mean of G equal floats need not be that float.
    offsets = rewards - rewards[..., :1]
    return offsets - offsets.mean(axis=-1, keepdims=True)


def compared_with(rewards: np.ndarray, counted: np.ndarray, *, standardized: bool) -> np.ndarray:
    """(G,) R_i - mean R over the counted episodes, with `standardized` over their deviation (ddof = 1) + 1e-6.

    With all counted it is `mean_centered` or `group_standardized`. LUFFY's code (2504.14945) has both means: over
    rollouts and trace, and of the rollouts alone.

    Args:
        rewards: (G,) of one group.
        counted: (G,) bool; whether the episode's reward is in mean and deviation.
    """
    rewards = _checked(rewards)
    compute = group_standardized if standardized else mean_centered
    if counted.all():
        return compute(rewards)
    base = rewards[counted]
    advantages = rewards - base.mean()  # of the others
    if standardized and len(base) > 1:
        advantages /= base.std(ddof=1) + 1e-6
    advantages[counted] = compute(base)  # equal rewards give exactly 0
    return advantages


def leave_one_out(rewards: np.ndarray) -> np.ndarray:
    """R_i - sum_{j != i} R_j / (G - 1), RLOO (2402.14740). The sum over a group is 0.

    Raises:
        ValueError: a group has one episode, which leaves no other to compare with.
    """
    rewards = _checked(rewards)
    size = rewards.shape[-1]
    if size < 2:
        raise ValueError(f"group_size must be >= 2, got {size}: leaving one out leaves no episode to compare with")
    # R_i minus the mean of the others is G / (G - 1) times R_i minus the mean of all.
    return mean_centered(rewards) * (size / (size - 1))


def no_advantages(groups: Sequence[SampledGroup]) -> list[np.ndarray]:
    """(G,) zeros for each group, for a loss that reads no advantages."""
    return [np.zeros(len(group.infos)) for group in groups]


def _checked(rewards: np.ndarray) -> np.ndarray:
    """The rewards in float64, or a ValueError about their shape or a value that is not finite."""
    rewards = np.asarray(rewards, dtype=np.float64)
    if rewards.ndim == 0 or rewards.shape[-1] == 0:
        raise ValueError(f"rewards must be (P, G) or (G,) with G >= 1, got shape {rewards.shape}")
    if not np.isfinite(rewards).all():
        raise ValueError(f"rewards must be finite, got {rewards[~np.isfinite(rewards)][0]}: the verifier returned it")
    return rewards
