"""avg@k, pass@k, maj@k and their intervals, against enumeration and known values."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from tgpo_ray.suites.answers_file import Answer, ProblemAnswers
from tgpo_ray.suites.estimates import bootstrap_means, estimate_of, majority_right, pass_at_k
from tgpo_ray.suites.figures import figures_of, mean_figures, pass_ks


@pytest.mark.parametrize("num_samples", [1, 2, 5, 6])
def test_pass_at_k_is_the_share_of_choices_that_hold_a_right_response(num_samples: int) -> None:
    for k in range(1, num_samples + 1):
        got = pass_at_k(np.arange(num_samples + 1), num_samples, k)
        for num_right in range(num_samples + 1):
            choices = list(combinations(range(num_samples), k))  # responses 0 .. c-1 are right
            expected = sum(min(choice) < num_right for choice in choices) / len(choices)
            assert got[num_right] == pytest.approx(expected)


def test_pass_at_1_is_the_mean_and_a_k_beyond_the_responses_is_refused() -> None:
    assert pass_at_k(np.asarray([8]), 32, 1)[0] == pytest.approx(0.25)
    with pytest.raises(ValueError, match="k must be between 1 and the 4 responses to a problem, got 5"):
        pass_at_k(np.asarray([1]), 4, 5)


@pytest.mark.parametrize(
    ("answers", "right", "expected"),
    [
        (["3", "3", "4"], [True, True, False], 1.0),
        (["3", "4", "4"], [True, False, False], 0.0),
        (["1/2", "0.5", "7", "7"], [True, True, False, False], 0.5),  # two spellings of the right answer are one
        (["a", "b"], [True, False], 0.5),
        (["7 0", "70", "3"], [False, False, True], 0.0),  # blanks tell no answers apart
        ([None, None, None], [False] * 3, 0.0),
        ([None, None, "3"], [False, False, True], 1.0),  # who says nothing does not vote
        ([None, "4"], [True, False], 0.5),  # right without a text, as of an environment that states none
    ],
)
def test_the_answer_of_most_responses(answers: list[str | None], right: list[bool], expected: float) -> None:
    assert majority_right(answers, right) == expected


def test_an_interval_is_that_of_a_mean_over_problems() -> None:
    values = np.random.default_rng(0).normal(0.4, 0.2, size=(400, 1))
    draws = bootstrap_means(values, seed=1)
    found = estimate_of(values.mean(), draws[:, 0])
    error = values.std() / np.sqrt(400)
    assert draws.shape == (2000, 1)
    assert found.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error * 1.96)
    assert found.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error * 1.96)
    np.testing.assert_array_equal(draws, bootstrap_means(values, seed=1))


def rows(shares: list[list[bool]]) -> list[ProblemAnswers]:
    """Problems whose responses are right or wrong as the lists say."""
    return [
        ProblemAnswers(
            index, "", "", None,
            tuple(Answer("", "correct" if it else "wrong", float(it), str(it), "stop", 10) for it in right),
        )
        for index, right in enumerate(shares)
    ]  # fmt: skip


def test_more_responses_to_the_same_problems_do_not_narrow_the_interval_of_problems_that_differ() -> None:
    """Problems are the clusters: 8 equal responses say no more than one."""
    once = figures_of("a", rows([[index % 2 == 0] for index in range(40)]), 40)
    often = figures_of("a", rows([[index % 2 == 0] * 8 for index in range(40)]), 40)
    assert once is not None and often is not None
    assert often.accuracy == once.accuracy
    assert once.accuracy.high - once.accuracy.low == pytest.approx(2 * 1.96 * 0.5 / np.sqrt(40), rel=0.1)


def test_the_figures_of_a_set() -> None:
    answers = [
        Answer("x", "correct", 1.0, "1", "stop", 10),
        Answer("x", "wrong", 0.0, "2", "length", 30),
        Answer("x", "unparsable", 0.0, None, "length", 30),
        Answer("x", "timeout", 0.0, None, "stop", 10),
    ]
    found = figures_of("a", [ProblemAnswers(0, "", "", None, tuple(answers))], 2)
    assert found is not None
    assert (found.num_problems, found.num_expected, found.num_samples) == (1, 2, 4)
    assert found.accuracy.mean == 0.25
    assert {k: it.mean for k, it in found.pass_at.items()} == {1: 0.25, 2: 0.5, 4: 1.0}
    assert (found.truncated, found.unparsable, found.failed) == (0.5, 0.25, 0.25)
    assert found.tokens.mean == 20.0
    assert found.majority.mean == 0.5  # of `1` and `2`, which have a voice each
    assert figures_of("a", [], 2) is None
    assert pass_ks(6) == [1, 2, 4, 6]


def test_a_mean_over_sets_weighs_each_the_same_and_needs_all_of_them() -> None:
    small, large = figures_of("a", rows([[True]] * 2), 2), figures_of("b", rows([[False]] * 50), 50)
    assert small is not None and large is not None
    sets = {"a": small, "b": large}
    (mean,) = mean_figures({"both": ["a", "b"], "three": ["a", "b", "c"]}, sets)
    assert (mean.label, mean.accuracy.mean, mean.accuracy.low) == ("both", 0.5, 0.5)
