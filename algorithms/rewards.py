"""The rewards that an algorithm trains on, by verdict and with a price on length. Numpy only, one group at a time.

Shapes: every array is (G,), one entry for each episode of a group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tgpo_ray.episode import EpisodeInfo

    from .grpo_config import GRPOTrainingConfig


def outcome_rewards(outcomes: Sequence[str], worth: Mapping[str, float]) -> np.ndarray:
    """(G,) the worth of each verdict. A failed verification (timeout, error) is worth as much as a wrong answer.

    SimpleRL-Zero's first recipe: correct 1, wrong -0.5, unparsable -1. DAPO (2503.14476): 1, -1, -1.
    """
    return np.array([worth.get(outcome, worth["wrong"]) for outcome in outcomes])


def overlong_penalty(lengths: np.ndarray, max_tokens: int, buffer: int) -> np.ndarray:
    """(G,) between 0 and -1, falling linearly over the last `buffer` tokens before the limit.

        min(0, -(length - (max_tokens - buffer)) / buffer)

    DAPO (2503.14476), Eq. 13, soft overlong punishment.

    Raises:
        ValueError: the buffer is outside 1..max_tokens - 1.
    """
    if not 0 < buffer < max_tokens:
        raise ValueError(f"buffer must be in 1..{max_tokens - 1}, the tokens before the limit, got {buffer}")
    return np.clip(-(np.asarray(lengths, float) - (max_tokens - buffer)) / buffer, -1.0, 0.0)


def length_reward(lengths: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """(G,) between -0.5 and 0.5, the higher the shorter a response is in its group. A wrong one gains nothing.

        l = 0.5 - (length - shortest) / (longest - shortest);   correct: l;   not correct: min(0, l)

    Kimi k1.5 (2501.12599), section 2.3.3. All are 0 where all have one length.
    """
    lengths = np.asarray(lengths, float)
    span = lengths.max() - lengths.min()
    if span == 0.0:  # no 0 / 0
        return np.zeros_like(lengths)
    value = 0.5 - (lengths - lengths.min()) / span
    return np.where(np.asarray(correct, bool), value, np.minimum(value, 0.0))


def shaped_rewards(infos: Sequence[EpisodeInfo], training: GRPOTrainingConfig, max_tokens: int) -> np.ndarray:
    """(G,) the rewards of a group's episodes, shaped as `training` says.

    Verdicts come first, then the zero of truncated ones (Oat-Zero), then the two prices on length, which add up.
    """
    rewards = np.array([info.reward for info in infos], float)
    if training.outcome_rewards is not None:
        rewards = outcome_rewards([info.outcome for info in infos], training.outcome_rewards.model_dump())
    if training.zero_truncated:  # after the verdicts, so that a truncated wrong answer has 0 too
        rewards = np.where([info.stop_reason == "length" for info in infos], 0.0, rewards)
    lengths = np.array([info.num_response_tokens for info in infos])
    if training.overlong_buffer is not None:
        rewards = rewards + overlong_penalty(lengths, max_tokens, training.overlong_buffer)
    if training.length_weight > 0.0:
        correct = np.array([info.outcome == "correct" for info in infos])
        rewards = rewards + training.length_weight * length_reward(lengths, correct)
    return rewards
