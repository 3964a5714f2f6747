"""Guidance weights over training steps, as callables step -> weight. Steps are counted from 0.

`last_step()` is the first step from which on the weight is 0, so that the teacher is not needed, or None. If a trainer
does not count its steps, `GuidanceWeight` counts them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

RELATIVE_TOLERANCE = 1e-9  # below this share of the first weight a weight is 0, because 0.3 - 3 * 0.1 is 5.6e-17
ABSOLUTE_TOLERANCE = 1e-12  # the same for a function, whose scale is unknown


class Schedule(Protocol):
    """A weight for each step, and the step from which on it is 0."""

    def __call__(self, step: int) -> float: ...

    def last_step(self) -> int | None: ...


@dataclass(frozen=True)
class ConstantWeight:
    """The constant weight of plain TGPO: w_t = weight."""

    weight: float

    def __post_init__(self) -> None:
        require_not_negative("weight", self.weight)

    def __call__(self, step: int) -> float:
        require_step(step)
        return self.weight

    def last_step(self) -> int | None:
        return 0 if self.weight == 0.0 else None


@dataclass(frozen=True)
class LinearDecay:
    """The weight that falls linearly: w_t = max(weight - decay t, minimum).

    TGPO-annealing has weight 2e-3 and decay 1e-5, so it is 0 from step 200 on (Teacher-Guided Policy Optimization,
    section 3.3). Step 0 has exactly `weight`.
    """

    weight: float
    decay: float
    minimum: float = 0.0

    def __post_init__(self) -> None:
        require_not_negative("weight", self.weight)
        require_not_negative("decay", self.decay)
        require_not_negative("minimum", self.minimum)
        if self.minimum > self.weight:
            raise ValueError(f"minimum must be <= weight, got {self.minimum} > {self.weight}: the weight only falls")

    def __call__(self, step: int) -> float:
        require_step(step)
        return max(_snap(self.weight - self.decay * step, self.weight), self.minimum)

    def last_step(self) -> int | None:
        if self.weight == 0.0:
            return 0
        if self.minimum > 0.0 or self.decay == 0.0:
            return None
        step = math.ceil(self.weight / self.decay)
        return step - 1 if step >= 1 and self(step - 1) == 0.0 else step  # the quotient may round up past a whole step


@dataclass(frozen=True)
class CosineDecay:
    """The weight w_t = weight (1 + cos(pi t / num_steps)) / 2, and 0 from step `num_steps` on."""

    weight: float
    num_steps: int

    def __post_init__(self) -> None:
        require_not_negative("weight", self.weight)
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be >= 1, got {self.num_steps}: the weight is 0 from that step on")

    def __call__(self, step: int) -> float:
        require_step(step)
        if step >= self.num_steps:
            return 0.0
        return self.weight * 0.5 * (1.0 + math.cos(math.pi * step / self.num_steps))

    def last_step(self) -> int | None:
        return 0 if self.weight == 0.0 else self.num_steps


@dataclass(frozen=True)
class CallableWeight:
    """The weight w_t = function(t) of any function. A value within 1e-12 of 0 counts as 0."""

    function: Callable[[int], float]

    def __call__(self, step: int) -> float:
        require_step(step)
        weight = float(self.function(step))
        if abs(weight) <= ABSOLUTE_TOLERANCE:
            return 0.0
        require_not_negative(f"weight at step {step}", weight)
        return weight

    def last_step(self) -> int | None:
        """Returns None, because later values of the function are unknown."""
        return None


def as_schedule(weight: float | Callable[[int], float]) -> Schedule:
    """Returns the schedule of a number (constant), of a function step -> weight, or of a schedule (unchanged).

    Raises:
        ValueError: `weight` is neither a number nor a function.
    """
    if isinstance(weight, int | float) and not isinstance(weight, bool):
        return ConstantWeight(float(weight))
    if not callable(weight):
        raise ValueError(f"a guidance weight must be a number or a function step -> weight, got {weight!r}")
    return weight if hasattr(weight, "last_step") else CallableWeight(weight)  # pyright: ignore[reportReturnType]


class GuidanceWeight:
    """A schedule that counts its steps, for a trainer that does not. It is used like a learning-rate scheduler.

        weight = GuidanceWeight(LinearDecay(2e-3, 1e-5))
        loss = policy_loss + weight.value * guidance_loss(...)
        ...; optimizer.step(); weight.step()

    Call `step()` once for each step of the schedule. In this package a step is an iteration, so with several optimizer
    steps for each batch of responses call it after the last of them. A checkpoint holds `state_dict()`. The caller
    builds the same schedule again.
    """

    def __init__(self, weight: float | Callable[[int], float]) -> None:
        self.schedule = as_schedule(weight)
        self.num_steps = 0

    @property
    def value(self) -> float:
        """The weight w_t of the present step."""
        return self.schedule(self.num_steps)

    @property
    def is_over(self) -> bool:
        """Whether the weight is 0 from this step on, so that the teacher is not needed."""
        last = self.schedule.last_step()
        return last is not None and self.num_steps >= last

    def step(self) -> float:
        """Returns the weight of the next step, after it has counted the present one."""
        self.num_steps += 1
        return self.value

    def state_dict(self) -> dict[str, int]:
        return {"num_steps": self.num_steps}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Continue at a saved step.

        Raises:
            ValueError: `state` is no result of `state_dict`.
        """
        if set(state) != {"num_steps"}:
            raise ValueError(f"the state of a guidance weight holds 'num_steps' alone, got {sorted(state)}")
        require_step(state["num_steps"])
        self.num_steps = int(state["num_steps"])


def _snap(value: float, scale: float) -> float:
    return 0.0 if value <= RELATIVE_TOLERANCE * scale else value


def require_not_negative(name: str, value: float) -> None:
    if not 0.0 <= value < math.inf:
        raise ValueError(
            f"{name} must be a finite number >= 0, got {value}: a negative weight would unlearn the teacher"
        )


def require_step(step: int) -> None:
    if step < 0:
        raise ValueError(f"step must be >= 0, got {step}: steps are counted from 0")
