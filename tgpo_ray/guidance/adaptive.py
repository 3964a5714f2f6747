"""Guidance weights that follow what a run measures: schedules that also observe, and whose state a checkpoint holds.

    weight = schedule(step)                 # of the present step, whatever its number
    ...; schedule.observe(step, metrics)    # after the step, and after each evaluation
    checkpoint["schedule"] = schedule.state_dict()

`metrics` has names of this package's metrics, and what a schedule does not know it ignores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from tgpo_ray.guidance.schedules import require_not_negative, require_step

LARGEST_STEP = 2.0  # of a weight in one step of `BalancedWeight`, up or down
GUIDANCE_NORM, POLICY_NORM, SUCCESS = "guidance/gradient_norm", "policy/gradient_norm", "outcome/correct"


@runtime_checkable
class AdaptiveSchedule(Protocol):
    """A schedule whose weight depends on earlier metrics. `last_step` is None unless the weight stays 0."""

    def __call__(self, step: int) -> float: ...

    def last_step(self) -> int | None: ...

    def observe(self, step: int, metrics: Mapping[str, float]) -> None: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class BalancedWeight:
    """A weight that holds the ratio of guidance's gradient to the policy loss's, and fades as the policy succeeds.

        r_t = w_t EMA(|g_guidance| / w_t / max(|g_policy|, floor)),   k_t = k_0 (1 - EMA(success))
        w_{t+1} = w_t (k_t / r_t)^eta,   by a factor of 2 at most, within minimum..maximum

    The norms are means over tokens, as `guidance/gradient_norm` (with its weight and gate) and `policy/gradient_norm`
    of `diagnostic_sums`. They cost nothing. The average is of the ratio at weight 1, so that the controller does not
    chase its own changes. Where all advantages are 0 the policy loss has no gradient, and `floor` stands in for its
    norm. A step without guidance measures no ratio.

    Args:
        weight: w_0, > 0.
        k_0: the ratio that is held while nothing succeeds, > 0. The default was the best of 1, 10 and 100 on one small
            task (docs/study.md).
        eta: gain, in (0, 1]. 1 goes to the aim at once.
        smoothing: share of the past in both averages, in [0, 1).
        floor: least norm of the policy loss's gradient, > 0, in nats a token.
        minimum, maximum: bounds of the weight.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        weight: float,
        *,
        k_0: float = 10.0,
        eta: float = 0.3,
        smoothing: float = 0.9,
        floor: float = 0.01,
        minimum: float = 1e-6,
        maximum: float = 100.0,
    ) -> None:
        for name, value in (("weight", weight), ("k_0", k_0), ("floor", floor), ("minimum", minimum)):
            if not 0.0 < value < math.inf:
                raise ValueError(f"{name} must be a finite number > 0, got {value}: the weight is changed by factors")
        if not 0.0 < eta <= 1.0:
            raise ValueError(f"eta must be in (0, 1], got {eta}: above 1 the weight swings")
        if not 0.0 <= smoothing < 1.0:
            raise ValueError(f"smoothing must be in [0, 1), got {smoothing}: at 1 nothing is ever learned")
        if not minimum <= weight <= maximum:
            raise ValueError(f"weight must be in minimum..maximum = {minimum:g}..{maximum:g}, got {weight}")
        self.k_0, self.eta, self.smoothing, self.floor = k_0, eta, smoothing, floor
        self.minimum, self.maximum = minimum, maximum
        self.weight = weight
        self.unit_ratio: float | None = None  # EMA of the ratio at weight 1
        self.success: float | None = None  # EMA

    def __call__(self, step: int) -> float:
        require_step(step)
        return self.weight

    def last_step(self) -> int | None:
        """Returns None: the weight never stays 0."""
        return None

    @property
    def ratio(self) -> float | None:
        """r_t, or None before the first measurement."""
        return None if self.unit_ratio is None else self.weight * self.unit_ratio

    def metrics(self) -> dict[str, float]:
        """Returns the ratio that is measured and the one that is held, once there is a measurement."""
        return {} if self.ratio is None else {"guidance/ratio": self.ratio, "guidance/ratio_aim": self.aim}

    @property
    def aim(self) -> float:
        """k_t."""
        return self.k_0 * (1.0 - min(1.0, max(0.0, self.success or 0.0)))

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """Follow the metrics of a step: `guidance/gradient_norm`, `policy/gradient_norm`, `outcome/correct`.

        A figure that is not finite counts for nothing: an average would never be rid of it.
        """
        require_step(step)
        if GUIDANCE_NORM not in metrics or POLICY_NORM not in metrics:  # of an evaluation
            return
        if math.isfinite(metrics.get(SUCCESS, math.nan)):
            self.success = self._average(self.success, metrics[SUCCESS])
        guidance = metrics[GUIDANCE_NORM]
        if not 0.0 < guidance < math.inf or not math.isfinite(metrics[POLICY_NORM]):
            return
        self.unit_ratio = self._average(self.unit_ratio, guidance / self.weight / max(metrics[POLICY_NORM], self.floor))
        factor = (self.aim / (self.weight * self.unit_ratio)) ** self.eta
        factor = min(LARGEST_STEP, max(1.0 / LARGEST_STEP, factor))
        self.weight = min(self.maximum, max(self.minimum, self.weight * factor))

    def _average(self, past: float | None, value: float) -> float:
        return value if past is None else self.smoothing * past + (1.0 - self.smoothing) * value

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight, "unit_ratio": self.unit_ratio, "success": self.success}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved state.

        Raises:
            ValueError: `state` is no result of `state_dict`.
        """
        _require_keys(state, self.state_dict())
        self.weight, self.unit_ratio, self.success = state["weight"], state["unit_ratio"], state["success"]


class PlateauWeight:
    """A weight that falls where a held-out figure has stopped to rise with it.

        after `patience` evaluations in a row that are not above the best by more than `threshold`:  w <- factor w

    It is the rule of torch's ReduceLROnPlateau, on evaluations. The best stays, and the count begins again.

    Args:
        weight: w_0, >= 0.
        factor: of a fall, in (0, 1).
        patience: evaluations without a gain until a fall, >= 1.
        threshold: gain that counts as one, >= 0.
        minimum: least weight.
        metric: name of the figure, of an evaluation or of the steps.

    Raises:
        ValueError: an argument is outside its range.
    """

    def __init__(
        self,
        weight: float,
        *,
        factor: float = 0.5,
        patience: int = 2,
        threshold: float = 0.0,
        minimum: float = 0.0,
        metric: str = "evaluation/reward",
    ) -> None:
        for name, value in (("weight", weight), ("threshold", threshold), ("minimum", minimum)):
            require_not_negative(name, value)
        if not 0.0 < factor < 1.0:
            raise ValueError(f"factor must be in (0, 1), got {factor}: the weight only falls")
        if not (isinstance(patience, int) and patience >= 1):
            raise ValueError(f"patience must be a whole number >= 1, got {patience!r}: evaluations without a gain")
        if minimum > weight:
            raise ValueError(f"minimum must be <= weight, got {minimum} > {weight}: the weight only falls")
        self.factor, self.patience, self.threshold = factor, patience, threshold
        self.minimum, self.metric = minimum, metric
        self.weight = weight
        self.best: float | None = None
        self.num_waited = 0  # evaluations since the last gain or fall
        self.seen = -1  # the last step that was observed

    def __call__(self, step: int) -> float:
        require_step(step)
        return self.weight

    def last_step(self) -> int | None:
        return 0 if self.weight == 0.0 else None

    def observe(self, step: int, metrics: Mapping[str, float]) -> None:
        """Follow the figure of a step. Another one of the same step, and one that is not a number, do not count."""
        require_step(step)
        value = metrics.get(self.metric, math.nan)
        if step <= self.seen or not math.isfinite(value):
            return
        self.seen = step
        if self.best is None or value > self.best + self.threshold:
            self.best, self.num_waited = value, 0
            return
        self.num_waited += 1
        if self.num_waited >= self.patience:
            self.weight, self.num_waited = max(self.minimum, self.factor * self.weight), 0

    def state_dict(self) -> dict[str, Any]:
        return {"weight": self.weight, "best": self.best, "num_waited": self.num_waited, "seen": self.seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue at a saved state.

        Raises:
            ValueError: `state` is no result of `state_dict`.
        """
        _require_keys(state, self.state_dict())
        self.weight, self.best = state["weight"], state["best"]
        self.num_waited, self.seen = state["num_waited"], state["seen"]


def _require_keys(state: Mapping[str, Any], own: Mapping[str, Any]) -> None:
    if set(state) != set(own):
        raise ValueError(f"the state of this schedule holds {', '.join(own)}, got {', '.join(sorted(state))}")
