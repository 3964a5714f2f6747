"""Guidance weights over training steps: callables step -> weight, the step counted from 0.

`last_step()` is the first step at which the weight is 0 and stays so (from then on nobody needs the teacher), or None.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

RELATIVE_TOLERANCE = 1e-9  # 0.3 - 3 * 0.1 leaves 5.6e-17: below this share of the first weight a weight is 0


@dataclass(frozen=True)
class ConstantWeight:
    """w_t = weight: plain TGPO."""

    weight: float

    def __post_init__(self) -> None:
        _require_not_negative("weight", self.weight)

    def __call__(self, step: int) -> float:
        _require_step(step)
        return self.weight

    def last_step(self) -> int | None:
        return 0 if self.weight == 0.0 else None


@dataclass(frozen=True)
class LinearDecay:
    """w_t = max(weight - decay t, minimum): TGPO-annealing with weight 2e-3 and decay 1e-5, 0 from step 200 on.

    Teacher-Guided Policy Optimization, section 3.3. Step 0 sees `weight` exactly.
    """

    weight: float
    decay: float
    minimum: float = 0.0

    def __post_init__(self) -> None:
        _require_not_negative("weight", self.weight)
        _require_not_negative("decay", self.decay)
        _require_not_negative("minimum", self.minimum)
        if self.minimum > self.weight:
            raise ValueError(f"minimum must be <= weight, got {self.minimum} > {self.weight}: the weight only falls")

    def __call__(self, step: int) -> float:
        _require_step(step)
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
    """w_t = weight (1 + cos(pi t / num_steps)) / 2, and 0 from step `num_steps` on."""

    weight: float
    num_steps: int

    def __post_init__(self) -> None:
        _require_not_negative("weight", self.weight)
        if self.num_steps < 1:
            raise ValueError(f"num_steps must be >= 1, got {self.num_steps}: the weight is 0 from that step on")

    def __call__(self, step: int) -> float:
        _require_step(step)
        if step >= self.num_steps:
            return 0.0
        return self.weight * 0.5 * (1.0 + math.cos(math.pi * step / self.num_steps))

    def last_step(self) -> int | None:
        return 0 if self.weight == 0.0 else self.num_steps


def _snap(value: float, scale: float) -> float:
    return 0.0 if value <= RELATIVE_TOLERANCE * scale else value


def _require_not_negative(name: str, value: float) -> None:
    if not 0.0 <= value < math.inf:
        raise ValueError(
            f"{name} must be a finite number >= 0, got {value}: a negative weight would unlearn the teacher"
        )


def _require_step(step: int) -> None:
    if step < 0:
        raise ValueError(f"step must be >= 0, got {step}: steps are counted from 0")
