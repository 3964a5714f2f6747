"""avg@k, pass@k and maj@k of a set of problems, with intervals from resampling its problems."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 2_000
LEVEL = 0.95
CHUNK = 4_000_000  # drawn indices at a time


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over problems, and the interval that holds the middle 95 % of its resampled means."""

    mean: float
    low: float
    high: float


def pass_at_k(num_right: np.ndarray, num_samples: int, k: int) -> np.ndarray:
    """Returns (P,), for each problem the chance that at least one of k of its n responses is right.

        pass@k = 1 - C(n - c, k) / C(n, k) = 1 - prod_{i = n - c + 1}^{n} (1 - k / i)

    c is `num_right` (P,) and n `num_samples`. It is the unbiased estimate of Chen et al., "Evaluating Large Language
    Models Trained on Code", arXiv:2107.03374, Eq. 1. 1 - (1 - c/n)^k would be too low.

    Raises:
        ValueError: k is not between 1 and n.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must be between 1 and the {num_samples} responses to a problem, got {k}")
    factors = 1.0 - k / np.arange(1, num_samples + 1)  # (n,), the i-th for i
    factors = np.maximum(factors, 0.0)  # i < k: no choice of k without a right response is left
    # (n + 1,): the product of the last c factors
    tails = np.concatenate([[1.0], np.cumprod(factors[::-1])])
    return 1.0 - tails[np.asarray(num_right)]


def majority_right(answers: Sequence[str | None], right: Sequence[bool]) -> float:
    """Returns whether the answer that most responses to one problem give is right; of m equal firsts it counts 1/m.

    All right responses give one answer, however they spell it: the verifier has said so. Wrong ones are told apart by
    their text without blanks. Responses without an answer do not vote. Wang et al., "Self-Consistency",
    arXiv:2203.11171.

    Args:
        answers: (k,) the answer of each response, as its verifier has read it.
        right: (k,) whether it is right.
    """
    votes = Counter(
        ("right",) if is_right else ("wrong", "".join((answer or "").split()))
        for answer, is_right in zip(answers, right, strict=True)
        if is_right or answer is not None
    )
    most = max(votes.values(), default=0)
    return float(votes[("right",)] == most) / list(votes.values()).count(most) if most else 0.0


def bootstrap_means(values: np.ndarray, *, seed: int, num_resamples: int = NUM_RESAMPLES) -> np.ndarray:
    """Returns (B, S), the means of S figures in B resamples of P problems, drawn with replacement.

    A problem is drawn with all of its responses, which depend on each other: they are a cluster. So k responses to each
    problem make no interval narrower by themselves. Efron and Tibshirani, "An Introduction to the Bootstrap", 1993.

    Args:
        values: (P, S), one row a problem.
    """
    values = np.asarray(values, np.float64)
    rng, num_problems = np.random.default_rng(seed), len(values)
    means = np.empty((num_resamples, values.shape[1]))
    step = max(1, CHUNK // num_problems)
    for first in range(0, num_resamples, step):
        rows = min(step, num_resamples - first)
        drawn = rng.integers(num_problems, size=(rows, num_problems))  # (b, P)
        for column in range(values.shape[1]):
            means[first : first + rows, column] = values[drawn, column].mean(axis=1)
    return means


def estimate_of(mean: float, draws: np.ndarray) -> Estimate:
    """Returns the mean with the interval between the 2.5 and 97.5 percentiles of its resampled values (B,)."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Estimate(float(mean), float(low), float(high))
