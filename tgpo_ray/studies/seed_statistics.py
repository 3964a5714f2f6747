"""Means with intervals, paired tests and the seeds that a difference would take. numpy and the standard library alone.

The unit is one run. Problems of an evaluation set are no repetitions of a training run, so they are not counted here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist

import numpy as np

LEVEL = 0.95
MIN_BAND = 3  # runs
POWER = 0.8
MAX_EXACT = 16  # pairs whose 2^n sign flips are all counted
NUM_DRAWS = 20_000  # of sign flips, where there are more pairs
FLIPS_SEED = 0
MAX_SEEDS = 10_000  # beyond this a difference counts as none
TOLERANCE = 1e-12  # relative; sums of the same numbers in another order are equal


@dataclass(frozen=True)
class Interval:
    """A mean of `count` runs. `low` and `high` are None where one run says nothing of the spread."""

    count: int
    mean: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Paired:
    """Differences, variant minus baseline, over the seeds that both have finished.

    Attributes:
        difference: mean and interval.
        p_value: two-sided, of the sign-flip test; None with fewer than two pairs.
        smallest_p: what the test can give at best with so many pairs, 2 / 2^n.
        seeds_needed: pairs after which a true difference of this size and spread is found with a chance of 80 %; None
            where the difference is 0 or there are fewer than two pairs.
    """

    difference: Interval
    p_value: float | None
    smallest_p: float
    seeds_needed: int | None


def t_cdf(t: float, df: int) -> float:
    """Returns P(T <= t) of Student's t with `df` degrees of freedom, by the finite series for whole `df`.

    Abramowitz and Stegun, 26.7.3 and 26.7.4, with theta = atan(t / sqrt(df)).
    """
    if df < 1:
        raise ValueError(f"df must be >= 1, got {df}: one run has no spread")
    theta = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = df % 2
    term = total = cosine if odd else 1.0
    for k in range(2 + odd, df - 1, 2):
        term *= (k - 1) / k * cosine**2
        total += term
    inside = 2 / math.pi * (theta + (sine * total if df > 1 else 0.0)) if odd else sine * total
    return 0.5 + inside / 2


@cache
def t_quantile(probability: float, df: int) -> float:
    """Returns the t with P(T <= t) = `probability`, to 1e-10 of its size. `probability` is in [0.5, 1)."""
    if not 0.5 <= probability < 1:
        raise ValueError(f"probability must be in [0.5, 1), got {probability}: the lower half is the negative")
    low, high = 0.0, 1.0
    while t_cdf(high, df) < probability:
        high *= 2
    while high - low > 1e-10 * max(high, 1.0):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < probability else (low, middle)
    return (low + high) / 2


def interval(values: Sequence[float], level: float = LEVEL) -> Interval:
    """Returns the mean of one value a run, with Student's interval: mean +- t * sd / sqrt(n), sd with n - 1.

    Raises:
        ValueError: there is no value.
    """
    if len(values) == 0:
        raise ValueError("a mean needs at least 1 value, got 0: no run has finished")
    numbers = np.asarray(values, np.float64)  # (n,)
    mean, count = float(numbers.mean()), len(numbers)
    if count < 2:
        return Interval(count, mean, None, None)
    half = t_quantile((1 + level) / 2, count - 1) * float(numbers.std(ddof=1)) / math.sqrt(count)
    return Interval(count, mean, mean - half, mean + half)


def sign_flip_p(differences: Sequence[float]) -> float:
    """Returns the two-sided p-value of the paired permutation test: the share of sign flips at least as far from 0.

    If variant and baseline were alike, each difference could have had the other sign. Up to 16 pairs all 2^n flips are
    counted, and the result is exact. With more, 20,000 are drawn, and the observed one counts as one more (Phipson and
    Smyth 2010), so that p is never 0.
    """
    numbers = np.asarray(differences, np.float64)  # (n,)
    count = len(numbers)
    if count == 0:
        raise ValueError("a paired test needs at least 1 difference, got 0: variant and baseline share no seed")
    observed = abs(float(numbers.sum())) - TOLERANCE * float(np.abs(numbers).sum())
    if count <= MAX_EXACT:
        bits = np.arange(2**count)[:, None] >> np.arange(count) & 1  # (2^n, n)
        return float(np.mean(np.abs((1 - 2 * bits) @ numbers) >= observed))
    signs = np.random.default_rng(FLIPS_SEED).choice([-1.0, 1.0], size=(NUM_DRAWS, count))
    return (1 + int(np.sum(np.abs(signs @ numbers) >= observed))) / (1 + NUM_DRAWS)


def seeds_needed(mean: float, deviation: float, *, level: float = LEVEL, power: float = POWER) -> int | None:
    """Returns the pairs with which a paired test finds a true difference of this mean and standard deviation.

        n = ((z_{1-alpha/2} + z_power) * deviation / mean)^2 + z_{1-alpha/2}^2 / 2

    Guenther (1981): the normal formula with a correction for the estimated deviation. It is at least the number from
    which the sign-flip test can fall below alpha at all: 2 / 2^n < alpha, 6 pairs for 0.05. With so few all must have
    one sign, so this number itself only where Phi(mean / deviation)^6 is at least the power. None for a mean of 0, and
    where more than 10,000 would be needed.
    """
    alpha = 1 - level
    fewest = math.floor(1 - math.log2(alpha)) + 1
    if mean == 0:
        return None
    z = NormalDist().inv_cdf(1 - alpha / 2)
    if deviation == 0 or NormalDist().cdf(abs(mean) / deviation) ** fewest >= power:
        return fewest  # where all differences must have one sign, that they have it is likely enough
    pairs = ((z + NormalDist().inv_cdf(power)) * deviation / mean) ** 2 + z**2 / 2
    return None if pairs > MAX_SEEDS else max(fewest + 1, math.ceil(pairs))


def paired(variant: Sequence[float], baseline: Sequence[float]) -> Paired:
    """Returns the comparison of two variants; entry i of both is a run of the same seed.

    Raises:
        ValueError: they have different lengths, or none.
    """
    if len(variant) != len(baseline):
        raise ValueError(f"pairs need two lists of one length, got {len(variant)} and {len(baseline)}")
    differences = np.asarray(variant, np.float64) - np.asarray(baseline, np.float64)  # (n,)
    found = interval(differences.tolist())
    several = found.count > 1
    return Paired(
        found,
        sign_flip_p(differences.tolist()) if several else None,
        2.0 ** (1 - found.count) if found.count <= MAX_EXACT else 1 / (1 + NUM_DRAWS),
        seeds_needed(found.mean, float(differences.std(ddof=1))) if several else None,
    )


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns the p-values adjusted for their number (Holm 1979): the chance of one false find among all stays alpha.

    The k-th smallest of m is multiplied by m - k + 1, is at least the one before it, and at most 1.
    """
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def band(curves: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Returns (n,) iterations, means, lower and upper bounds of curves of one variant's seeds.

    Each curve is (iterations, values). An iteration that only some runs have counts those. With fewer than three the
    bounds are the mean: Student's interval of two runs is twelve times as wide as their difference, and hides the rest.
    """
    points: dict[float, list[float]] = {}
    for iterations, values in curves:
        for iteration, value in zip(iterations, values, strict=True):
            points.setdefault(float(iteration), []).append(float(value))
    found = [interval(points[iteration]) for iteration in sorted(points)]
    means = [each.mean for each in found]
    lows = [each.mean if each.low is None or each.count < MIN_BAND else each.low for each in found]
    highs = [each.mean if each.high is None or each.count < MIN_BAND else each.high for each in found]
    return np.array(sorted(points)), np.array(means), np.array(lows), np.array(highs)
