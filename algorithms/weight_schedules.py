"""The weight over time that the keys of `guidance` describe."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from tgpo_ray.config import import_object
from tgpo_ray.guidance import (
    AdaptiveSchedule,
    BalancedWeight,
    CallableWeight,
    ConstantWeight,
    CosineDecay,
    LinearDecay,
    PlateauWeight,
    Schedule,
)

if TYPE_CHECKING:
    from .taught_config import TeacherTermConfig

KINDS: Mapping[str, type | tuple[type, ...]] = {"float": (int, float), "int": int, "str": str}
MAX_TRIED = 100_000  # steps
ADAPTIVE: Mapping[str, Callable[..., Schedule]] = {"balanced": BalancedWeight, "plateau": PlateauWeight}


def build_schedule(guidance: TeacherTermConfig, num_iterations: int) -> Schedule:
    """Returns the schedule, step -> weight with the step counted from 0.

    A class of one's own is called with `guidance.weight` and its options. A function f gives w_t = weight * f(t), with
    its options as keyword arguments.

    Raises:
        ValueError: an option is wrong, or the function cannot be imported. The message names the key.
    """
    name, options = guidance.schedule, guidance.schedule_options
    if ":" in name or name in ADAPTIVE:
        try:
            function = _function(name)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"guidance.schedule: cannot import {name!r}: {error}") from error
        try:
            return _tried(_with_options(function, guidance.weight, options), num_iterations)
        except Exception as error:  # one's own function may raise anything
            kind = "" if isinstance(error, ValueError | TypeError) else f"{type(error).__name__}: "
            raise ValueError(f"guidance.schedule_options: schedule {name}: {kind}{error}") from error
    if options:
        raise ValueError(f"guidance.schedule_options: schedule {name} has none, got {options}: leave them out")
    if name == "constant":
        return ConstantWeight(guidance.weight)
    if name == "cosine":
        return CosineDecay(guidance.weight, num_iterations)
    if guidance.minimum > guidance.weight:
        raise ValueError(
            f"guidance.minimum: must be <= guidance.weight ({guidance.weight:g}), got {guidance.minimum:g}"
        )
    return LinearDecay(guidance.weight, guidance.decay, guidance.minimum)


def _function(name: str) -> Callable[..., Any]:
    function = ADAPTIVE[name] if name in ADAPTIVE else import_object(name)
    if not callable(function):
        raise ValueError(f"{name!r} is no function, got {type(function).__name__}")
    return function


def _with_options(function: Callable[..., Any], weight: float, options: Mapping[str, Any]) -> Schedule:
    keywords = [it.name for it in inspect.signature(function).parameters.values() if it.kind == it.KEYWORD_ONLY]
    for option in options:
        if option not in keywords:
            near = difflib.get_close_matches(option, keywords, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ValueError(f"unknown option {option!r}{hint} It takes: {', '.join(keywords) or 'none'}")
    for option, value in options.items():
        kind = str(inspect.signature(function).parameters[option].annotation)
        if kind in KINDS and (isinstance(value, bool) or not isinstance(value, KINDS[kind])):
            raise ValueError(f"{option} must be of type {kind}, got {value!r}")
    if isinstance(function, type):
        return function(weight, **options)
    return CallableWeight(partial(_weighted, function, weight, dict(options)))


def _tried(schedule: Schedule, num_iterations: int) -> Schedule:
    """The schedule, after it gave a weight to each step: a wrong one ends here, and not in that iteration.

    One that observes gives its first weight alone: the others follow what it observes.

    Raises:
        ValueError: a weight is negative or no number, or a class lacks a method.
    """
    observes = hasattr(schedule, "observe")
    if not hasattr(schedule, "last_step") or (observes and not isinstance(schedule, AdaptiveSchedule)):
        needed = "observe, state_dict and load_state_dict, whose state a checkpoint holds, and " if observes else ""
        raise ValueError(f"{type(schedule).__name__} needs {needed}last_step, the first step with the weight 0 or None")
    for step in range(1 if observes else min(num_iterations, MAX_TRIED)):
        weight_at(schedule, step)
    return schedule


def weight_at(schedule: Schedule, step: int) -> float:
    """Returns w_t.

    Raises:
        ValueError: a schedule of one's own gives none that is finite and at least 0.
    """
    weight = schedule(step)
    if not (math.isfinite(weight) and weight >= 0.0):
        raise ValueError(f"weight at step {step} must be a finite number >= 0, got {weight}")
    return weight


def _weighted(function: Callable[..., float], weight: float, options: Mapping[str, Any], step: int) -> float:
    return weight * float(function(step, **options))
