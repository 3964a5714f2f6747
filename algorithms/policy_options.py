"""The options of `PolicyLoss`, and of the losses built on it, from the `training` section."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from .grpo_config import GRPOTrainingConfig
    from .losses import KLEstimator
    from .token_losses import Importance


class PolicyOptions(TypedDict):
    """The fields of `PolicyLoss` that a configuration sets."""

    clip_low: float
    clip_high: float
    dual_clip: float | None
    entropy_weight: float
    per_sequence: bool
    kl_weight: float
    kl_estimator: KLEstimator
    kl_as: Literal["loss", "advantage"]
    importance: Importance
    importance_cap: float


def policy_options(training: GRPOTrainingConfig, *, clips: bool = True) -> PolicyOptions:
    """The options of `training`, for `PolicyLoss(**policy_options(training))`. `clips=False` clips no ratio.

    The entropy weight is that of a token mean: `GRPO.policy_options` fits it to the step's denominator.
    """
    return {
        "clip_low": training.clip_low if clips else 1.0,  # the ratio is never below 0
        "clip_high": training.clip_high if clips else math.inf,
        "dual_clip": training.dual_clip if clips else None,
        "entropy_weight": training.entropy_weight,
        "per_sequence": training.loss_aggregation == "sequence",
        "kl_weight": training.kl_weight,
        "kl_estimator": training.kl_estimator,
        "kl_as": training.kl_as,
        "importance": training.resolved_importance(),
        "importance_cap": training.importance_cap,
    }
