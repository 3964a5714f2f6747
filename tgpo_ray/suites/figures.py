"""The figures of one model on one set, from the file of its answers, and their means over sets."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tgpo_ray.suites.answers_file import Answer, ProblemAnswers
from tgpo_ray.suites.estimates import Estimate, bootstrap_means, estimate_of, majority_right, pass_at_k

ALL_SETS = "all sets"  # the mean over all of them
FAILED = ("timeout", "error")  # of the verifier, which says nothing about the response


@dataclass(frozen=True)
class SetFigures:
    """One model on one set. Shares are of all responses."""

    label: str
    num_problems: int  # with answers
    num_expected: int  # of the set
    num_samples: int  # responses to each problem, k
    accuracy: Estimate  # avg@k: the mean share of right responses
    pass_at: Mapping[int, Estimate]
    majority: Estimate  # maj@k
    tokens: Estimate  # of a response
    truncated: float
    unparsable: float
    failed: float  # whose verifier did not give a verdict
    draws: np.ndarray  # (B,) resampled accuracies, for means over sets
    num_left_out: int = 0  # problems that are in no figure, because their prompts are too long for the model


@dataclass(frozen=True)
class MeanFigure:
    """The mean accuracy over several sets, each of the same weight."""

    label: str
    accuracy: Estimate
    sets: tuple[str, ...]


@dataclass(frozen=True)
class ModelFigures:
    """One model on the sets of a suite."""

    label: str
    sets: Mapping[str, SetFigures]
    means: Sequence[MeanFigure]
    published: Sequence[str] = ()


def figures_of(label: str, rows: Iterable[ProblemAnswers], num_expected: int, seed: int = 0) -> SetFigures | None:
    """Returns the figures of a set, or None where no problem has an answer yet.

    The rows are read one by one, because a file may be larger than memory.

    Args:
        num_expected: the problems of the set, with those that have no answers yet.
        seed: of the resampling. Together with `label` it decides the draws.
    """
    values: list[list[float]] = []  # a row for each problem
    ks: list[int] = []
    num_samples = 0
    for row in rows:
        if not values:
            num_samples = len(row.answers)
            ks = pass_ks(num_samples)
        values.append(_values(row.answers, ks))
    if not values:
        return None
    table = np.asarray(values)  # (P, S)
    means = table.mean(axis=0)
    draws = bootstrap_means(table[:, : 3 + len(ks)], seed=zlib.crc32(f"{seed}/{label}".encode()))
    accuracy, majority, tokens, *passes = (estimate_of(means[i], draws[:, i]) for i in range(3 + len(ks)))
    truncated, unparsable, failed = means[3 + len(ks) :].tolist()
    pass_at = dict(zip(ks, passes, strict=True))
    return SetFigures(
        label, len(table), num_expected, num_samples, accuracy, pass_at, majority, tokens, truncated, unparsable,
        failed, draws[:, 0],
    )  # fmt: skip


def pass_ks(num_samples: int) -> list[int]:
    """Returns the k of pass@k that are shown: the powers of two up to the number of responses, and that number."""
    return sorted({*(2**i for i in range(num_samples.bit_length())), num_samples})


def _values(answers: Sequence[Answer], ks: Sequence[int]) -> list[float]:
    right = [it.outcome == "correct" for it in answers]
    num_right = np.asarray([sum(right)])
    share = 1.0 / len(answers)
    return [
        sum(right) * share,
        majority_right([it.answer for it in answers], right),
        sum(it.num_tokens for it in answers) * share,
        *(float(pass_at_k(num_right, len(answers), k)[0]) for k in ks),
        sum(it.stop_reason == "length" for it in answers) * share,
        sum(it.outcome == "unparsable" for it in answers) * share,
        sum(it.outcome in FAILED for it in answers) * share,
    ]


def mean_figures(groups: Mapping[str, Sequence[str]], sets: Mapping[str, SetFigures]) -> list[MeanFigure]:
    """Returns the mean accuracy of each group of sets whose every set has answers. Each set weighs the same.

    The interval is that of means of the sets' own resampled accuracies: sets are fixed, problems are drawn.
    """
    means = []
    for label, names in groups.items():
        members = [sets[name] for name in names if name in sets]
        if len(members) < max(1, len(names)):
            continue
        draws = np.mean([it.draws for it in members], axis=0)  # (B,)
        mean = float(np.mean([it.accuracy.mean for it in members]))
        means.append(MeanFigure(label, estimate_of(mean, draws), tuple(names)))
    return means
