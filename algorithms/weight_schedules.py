"""The weight over time that the keys of `guidance` describe."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from tgpo_ray.config import import_object
from tgpo_ray.guidance import (
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
            return _with_options(_function(name), guidance.weight, options)
        except (ValueError, TypeError) as error:
            raise ValueError(f"guidance.schedule_options: schedule {name}: {error}") from error
        except (ImportError, AttributeError) as error:
            raise ValueError(f"guidance.schedule: cannot import {name!r}: {error}") from error
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
    if isinstance(function, type):
        schedule = function(weight, **options)
    else:
        schedule = CallableWeight(partial(_weighted, function, weight, dict(options)))
    schedule(0)  # a wrong value ends here, and not in the first iteration
    return schedule


def _weighted(function: Callable[..., float], weight: float, options: Mapping[str, Any], step: int) -> float:
    return weight * float(function(step, **options))
