r"""Reading `\boxed{}`."""

from __future__ import annotations

import time

import pytest

from tgpo_ray.envs import last_boxed
from tgpo_ray.envs.boxed import boxed_answers


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("so \\boxed{2082}", "2082"),
        ("\\boxed{1} or rather \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}.", "\\frac{1}{2}"),
        ("\\boxed{\\left\\{1, 2\\right.}", "\\left\\{1, 2\\right."),
        ("\\boxed{\\boxed{3}}", "\\boxed{3}"),
        ("\\boxed {4}", "4"),
        ("\\fbox{5} \\fboxed{6}", "6"),
        ("{ \\boxed{7} }", "7"),
        ("\\boxed{}", ""),
        ("\\boxed{8} \\boxed{9", "8"),  # cut off: the last complete one counts
        ("} \\boxed{10}", "10"),
        ("\\boxed{11", None),
        ("boxed{12}", None),
        ("", None),
    ],
)
def test_the_last_complete_box_is_the_answer(text, answer):
    assert last_boxed(text) == answer


def test_every_outermost_box_is_found_in_order():
    assert boxed_answers("\\boxed{1} {\\boxed{2}} \\boxed{a\\boxed{3}}") == ["1", "2", "a\\boxed{3}"]


@pytest.mark.parametrize("bomb", ["\\boxed{" * 200_000, "{" * 1_000_000, "\\boxed{1}" * 100_000, "}" * 1_000_000])
def test_a_megabyte_of_braces_takes_linear_time(bomb):
    start = time.monotonic()
    last_boxed(bomb)
    assert time.monotonic() - start < 5
