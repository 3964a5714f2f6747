"""Duplicates, and overlap of training problems with evaluation sets."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgpo_ray.envs.data_sets.overlap import EvaluationProblems, Overlap, longest_common, tokens_of

ROAD = (
    "A train leaves the station at 9 o'clock and drives 80 km in each hour. Another one leaves 2 hours later and "
    "drives 120 km in each hour. When does the second train overtake the first one?"
)


def known(*texts: str) -> EvaluationProblems:
    found = EvaluationProblems()
    found.add("math500.jsonl", texts)
    return found


def textbook(first: list[int], second: list[int]) -> int:
    """The table of the longest common subsequence, row by row."""
    row = [0] * (len(second) + 1)
    for a in first:
        above, row = row, [0]
        for number, b in enumerate(second):
            row.append(above[number] + 1 if a == b else max(above[number + 1], row[-1]))
    return row[-1]


@given(st.lists(st.integers(0, 4), max_size=30), st.lists(st.integers(0, 4), max_size=30))
def test_the_longest_common_subsequence_is_the_textbooks(first: list[int], second: list[int]) -> None:
    assert longest_common([*map(str, first)], [*map(str, second)]) == textbook(first, second)


def test_case_blanks_and_the_spacing_of_latex_make_no_difference() -> None:
    assert tokens_of("Find  $X+ 1$.") == tokens_of("find \\left x\\,+1 .") == ("find", "x", "+", "1", ".")
    assert tokens_of("3+2") != tokens_of("3-2")  # signs do
    assert tokens_of("\\frac12") == ("\\frac", "12")
    assert tokens_of("\\leftarrow") == ("\\leftarrow",)


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("10\u00b2", "10^2"),
        ("2\u00b23", "2^2 3"),
        ("10\u207b\u00b9\u2070", "10^\u221210"),
        ("1\u00bd", "1 1/2"),
        ("11\u20442", "11/2"),
        ("\u00bd3", "1/2 3"),
        ("log\u20828", "log_2 8"),
        ("1\u24602", "1 1 2"),
        ("\uff11\uff12", "12"),
    ],
)
def test_signs_that_stand_for_digits_do_not_join_their_neighbours(text: str, spelled: str) -> None:
    assert tokens_of(text) == tokens_of(spelled)


def test_chinese_and_japanese_texts_overlap_by_their_characters() -> None:
    problem = "\u5df2\u77e5\u7b49\u5dee\u6570\u5217\u7684\u524d\u4e09\u9879\u548c\u4e3a12\uff0c\u6c42\u7b2c\u4e8c\u9879"
    assert tokens_of("\u6c4212\u3042\u3044x\u9879") == ("\u6c42", "12", "\u3042", "\u3044", "x", "\u9879")
    assert (found := known(problem).overlap(tokens_of(f"\u9898\uff1a{problem}\u3002"))) and found.share == 1.0


def test_the_same_problem_is_found_however_short() -> None:
    assert known("One?", "What is 2+2?").overlap(tokens_of("what is  $2 + 2$?")) == Overlap("math500.jsonl", 1, 1.0)
    assert known("What is 2+2?").overlap(tokens_of("What is 2-2?")) is None
    assert known().overlap(tokens_of("What is 2-2?")) is None


def test_a_problem_within_another_text_or_with_other_numbers_overlaps() -> None:
    problems = known("Unlike the others.", ROAD)
    inside = problems.overlap(tokens_of(f"Think about this. {ROAD} Explain."))
    assert inside == Overlap("math500.jsonl", 1, 1.0)
    other = problems.overlap(tokens_of(ROAD.replace("80", "70").replace("120", "90")))
    assert other is not None and other.row == 1 and 0.9 < other.share < 1.0


def test_a_common_opening_is_no_overlap() -> None:
    opening = "Let a, b and c be positive real numbers such that "
    problems = known(f"{opening} their product is 8 and the sum of their squares is 21. Find the largest of the three.")
    assert (
        problems.overlap(tokens_of(f"{opening} no two are equal; how many triangles have such sides, if any?")) is None
    )


def test_the_problem_with_the_largest_common_part_is_named() -> None:
    near, nearer = ROAD.replace("overtake", "meet").replace("one", "it"), ROAD.replace("train", "tram")
    found = known(near, nearer, ROAD).overlap(tokens_of(ROAD + " Why?"))
    assert found == Overlap("math500.jsonl", 2, 1.0)


def test_settings_that_mean_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="ngram must be >= 1, got 0"):
        EvaluationProblems(ngram=0)
    with pytest.raises(ValueError, match=r"overlap must be in \(0, 1\], got 1.5"):
        EvaluationProblems(min_share=1.5)


def test_thousands_of_rows_take_seconds() -> None:
    draw = random.Random(0)
    words = [f"w{chr(97 + a)}{chr(97 + b)}" for a in range(26) for b in range(26)]

    def text() -> str:
        return " ".join(draw.choices(words, k=60))

    problems, start = known(*(text() for _ in range(1500))), time.process_time()
    assert not any(problems.overlap(tokens_of(text())) for _ in range(2000))
    assert time.process_time() - start < 10  # measured 0.6: 46,000 rows in half a minute
