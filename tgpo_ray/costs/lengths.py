"""Lengths of responses that have a given mean and a given longest one."""

from __future__ import annotations

import math

GOLDEN = 0.6180339887498949  # its multiples fall evenly, so neighbours in time have different lengths


def response_lengths(count: int, mean: float, longest: int) -> list[int]:
    """Returns `count` lengths in 1..longest with this mean: quantiles of an exponential law cut off at `longest`.

    A mean of `longest` gives equal lengths. The order is fixed and mixed.
    """
    if mean >= longest:
        return [longest] * count
    rate = _rate(mean / longest)
    shares = [math.fmod((index + 0.5) * GOLDEN, 1.0) for index in range(count)]
    return [max(1, min(longest, round(longest * _quantile(share, rate)))) for share in shares]


def _quantile(share: float, rate: float) -> float:
    """Returns x in 0..1 with density proportional to exp(-rate x) and distribution `share` at x."""
    if abs(rate) < 1e-6:
        return share
    return -math.log1p(share * math.expm1(-rate)) / rate


def _rate(mean: float) -> float:
    """Returns the rate at which the law on 0..1 has this mean, by bisection."""
    low, high = -500.0, 500.0
    if mean < 1 / high:  # the cut is out of sight
        return 1 / mean
    for _ in range(80):
        middle = (low + high) / 2
        found = 0.5 if abs(middle) < 1e-6 else 1 / middle - 1 / math.expm1(middle)
        low, high = (middle, high) if found > mean else (low, middle)
    return (low + high) / 2
