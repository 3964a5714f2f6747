"""The means of an iteration's updates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np


def update_means(updates: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over an iteration's updates of every metric, over the updates that have it."""
    names = {name for update in updates for name in update}
    means = {name: float(np.mean([update[name] for update in updates if name in update])) for name in sorted(names)}
    if "policy/importance_weight" in means:
        squared_mean = means["policy/importance_weight"] ** 2
        means["policy/effective_sample_size"] = squared_mean / means["policy/importance_weight_squared"]
    return means
