"""One figure for each name, from the reports of ranks and episodes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tgpo_ray.episode import OUTCOMES, EpisodeInfo

Sums = Mapping[str, tuple[float, float]]
"""Name -> (sum, count), as one rank reports one micro-batch."""


def reduce(parts: Sequence[Sums]) -> dict[str, float]:
    """Means over micro-batches and ranks: the sum of the sums over the sum of the counts.

    A name with count 0 is left out. Means of means would give a short micro-batch the same weight as a long one.
    """
    sums: dict[str, float] = {}
    counts: dict[str, float] = {}
    for part in parts:
        for name, (total, count) in part.items():
            if count > 0:  # a rank without such rows may send 0/0 = NaN as its sum
                sums[name] = sums.get(name, 0.0) + float(total)
                counts[name] = counts.get(name, 0.0) + float(count)
    return {name: sums[name] / counts[name] for name in sums}


def rollout_metrics(groups: Sequence[Sequence[EpisodeInfo]], *, weights_version: int) -> dict[str, float]:
    """Reward, lengths, outcomes and staleness of one iteration's episodes, in groups of one problem each.

    Raises:
        ValueError: there is no episode.
    """
    episodes = [episode for group in groups for episode in group]
    if not episodes:
        raise ValueError(
            f"an iteration needs at least 1 episode, got 0 in {len(groups)} groups: "
            "every group was refused or failed; look at the environment's errors or at the filter's bounds"
        )
    lengths = np.array([episode.num_response_tokens for episode in episodes])  # (B,)
    lag = weights_version - np.array([episode.weights_version for episode in episodes])  # (B,)
    metrics = {
        "reward": float(np.mean([episode.reward for episode in episodes])),
        "zero_advantage_groups": zero_advantage_share(groups),
        "weights_version": float(weights_version),
        "weights_version_lag": float(lag.mean()),
        "episode/response_length": float(lengths.mean()),
        "episode/response_length_max": float(lengths.max()),
        "episode/prompt_length": float(np.mean([episode.num_prompt_tokens for episode in episodes])),
        "episode/truncated": float(np.mean([episode.stop_reason == "length" for episode in episodes])),
        "tokens/response": float(lengths.sum()),
    }
    for outcome in OUTCOMES:  # all of them, each time: a rare failure shows as 0.0, not as a gap
        metrics[f"outcome/{outcome}"] = float(np.mean([episode.outcome == outcome for episode in episodes]))
    return metrics


def zero_advantage_share(groups: Sequence[Sequence[EpisodeInfo]]) -> float:
    """The share of groups whose rewards are all equal, among groups that have episodes."""
    num_values = [len({episode.reward for episode in group}) for group in groups if group]
    return sum(num == 1 for num in num_values) / len(num_values) if num_values else 0.0
