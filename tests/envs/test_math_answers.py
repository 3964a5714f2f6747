r"""What counts as the same mathematical answer, by kind. Cases are gold answer, response, whether it is right."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgpo_ray.envs import VerifierPool
from tgpo_ray.envs.choices import choose
from tgpo_ray.envs.math_env import MATH_ANSWER, MathEnv
from tgpo_ray.envs.verifiers.math_answer import check_gold, score

CASES: dict[str, list[tuple[str, str, bool]]] = {
    "thousands": [
        ("8000", r"\boxed{8{,}000}", True),
        ("1000000", r"\boxed{1\,000\,000}", True),
        ("12345", r"\boxed{12\ 345}", True),
        ("12345", "\\boxed{12\u202f345}", True),
        ("3", r"\boxed{3,000}", False),
        ("100, 200", r"\boxed{100,200}", True),
        ("100200", r"\boxed{100,200}", True),
        ("(1, 234)", r"\boxed{(1,234)}", True),
        ("1,22,333", r"\boxed{122333}", False),
        ("1000.99", r"\boxed{1000,99}", True),
    ],
    "units": [
        ("6", r"\boxed{6 eggs}", True),
        ("6", r"\boxed{6 km/h}", True),
        ("6", r"\boxed{6 \text{ m}^2}", True),
        ("6", r"\boxed{6m}", False),
        ("$6m$", r"\boxed{6}", False),
        ("n+2m", r"\boxed{n+2}", False),
        (r"5 \text{ cm}", r"\boxed{5 \text{ m}}", False),
        (r"5 \text{ cm}", r"\boxed{5 centimeters}", True),
        (r"5 \text{ m}", r"\boxed{5 m}", True),
        (r"20 \text{ m/s}", r"\boxed{20 \text{ km/h}}", False),
        (r"5 \text{ apples}", r"\boxed{5 \text{ pears}}", False),
        ("6", r"\boxed{6 \text{ million}}", False),
        ("6000000", r"\boxed{6 million}", True),
        ("5", r"\boxed{5 factorial}", False),
        ("5", r"\boxed{5^{\text{th}}}", True),
    ],
    "money, percent and degree": [
        ("29", r"The order costs \$29.00.", True),
        ("29", r"\boxed{USD 29}", True),
        ("29", "\\boxed{€29}", True),
        ("0.5", r"\boxed{50\%}", True),
        ("50", r"\boxed{50 percent}", True),
        ("5", r"\boxed{50\%}", False),
        (r"\frac13", r"\boxed{33\frac13\%}", True),
        (r"\frac{\pi}{3}", r"\boxed{60^\circ}", True),
        (r"\frac{\pi}{3}", r"\boxed{30^\circ}", False),
    ],
    "compound quantities and clocks": [
        ("6 feet 2 inches", r"\boxed{6 \text{ ft } 2 \text{ in}}", True),
        ("6 feet 2 inches", r"\boxed{6 \text{ feet } 3 \text{ inches}}", False),
        ("6 feet 2 inches", r"\boxed{6 feet}", False),
        (r"15^\circ 30'", r"\boxed{15 \text{ degrees } 30 \text{ minutes}}", True),
        (r"15^\circ 30'", r"\boxed{15^\circ 40'}", False),
        (r"15^\circ 30'", r"\boxed{15^\circ}", False),
        ("10:30 a.m.", r"\boxed{10:30 p.m.}", False),
        ("10:30 a.m.", r"\boxed{10:30 \text{ AM}}", True),
    ],
    "bases and vectors": [
        ("4343_6", r"\boxed{4343_7}", False),
        ("4343_6", r"\boxed{4343_{\text{six}}}", True),
        ("4343_6", r"\boxed{4343}", True),
        (r"\langle 2,5\rangle", r"\boxed{(2,5)}", True),
        (r"\langle 2,5\rangle", r"\boxed{2.5}", False),
        (r"\begin{pmatrix}2\\5\end{pmatrix}", r"\boxed{\langle 2,5\rangle}", True),
        (r"\begin{pmatrix}2\\5\end{pmatrix}", r"\boxed{\begin{bmatrix}2\\6\end{bmatrix}}", False),
        ("[2,5]", r"\boxed{(2,5)}", False),
        ("(1,3)", r"\boxed{1, 3}", True),
        ("1, 3", r"\boxed{(1, 3)}", False),
    ],
    "mixed numbers": [
        ("1 3/4", r"\boxed{1.75}", True),
        ("1 3/4", r"\boxed{1}", False),
        (r"1\frac34", r"\boxed{\frac74}", True),
        ("10", "The answer is 4 10/3", False),
        ("2.5", "\\boxed{2½}", True),
    ],
    "relative comparison": [
        ("6.63e-34", r"\boxed{1.6e-19}", False),
        (r"\frac{1}{20!}", r"\boxed{\frac{1}{19!}}", False),
        ("0.0000012", r"\boxed{0.0000014}", False),
        (r"\frac{20000}{\pi}", r"\boxed{6366.19772}", True),
        (r"\sqrt{2}", r"\boxed{1.414}", False),
        ("10^{-20} x", r"\boxed{2 \cdot 10^{-20} x}", False),
        ("1500", r"\boxed{1.5e3}", True),
        ("0.5x", r"\boxed{\frac{x}{2}}", True),
    ],
    "relations and equations": [
        ("5", r"\boxed{\le 5}", False),
        ("5", r"\boxed{\text{at least } 5}", False),
        ("x > 3", r"\boxed{3 < x}", True),
        (r"x \in [-2,7]", r"\boxed{[-2,7]}", True),
        ("y = 2x + 3", r"\boxed{2x - y + 3 = 0}", True),
        ("0", r"\boxed{5x - 7y = 0}", False),
        ("5", r"\boxed{6 = 5}", False),
        ("3R^2", r"\boxed{3r^2}", False),
        ("f'(x)", r"\boxed{f(x)}", False),
    ],
    "lists and hedges": [
        ("3", "The answer is 3 or 4 or 5.", False),
        ("3", "It could be 3, 4 or 5.", False),
        ("3", r"\boxed{3 \text{ or } 4}", False),
        (r"1 \pm \sqrt{19}", r"\boxed{1-\sqrt{19}, 1+\sqrt{19}}", True),
        (r"1 \pm \sqrt{19}", r"\boxed{1+\sqrt{19}}", False),
        ("p=5,q=2;p=7,q=2", r"\boxed{(7,2),(5,2)}", True),
    ],
    "roots and repeating decimals": [
        (r"\frac{1}{\sqrt{n}}", r"\boxed{\sqrt{\frac{1}{n}}}", True),
        (r"|x|", r"\boxed{\sqrt{x^2}}", True),
        (r"x", r"\boxed{\sqrt{x^2}}", False),
        (r"\frac16", r"\boxed{0.1\overline{6}}", True),
        (r"\frac13", r"\boxed{0.33}", False),
        (r"\sqrt[3]{2}", r"\boxed{2^{1/3}}", True),
        (r"e^{16}-1", r"\boxed{exp(16)-1}", True),
    ],
    "where the answer stands": [
        ("5", r"So \boxed{5}. (As asked, in \boxed{}.)", True),
        ("5", r"The sum is \fbox{5}.", True),
        ("5", r"\boxed{\boxed{5}}", True),
        ("5", r"\boxed{4}. Wait, that is wrong. \boxed{5}", True),
        ("3, 4", r"\boxed{3} apples and \boxed{4} pears", True),
        ("5", "The answer is 5 because 2+3=5.", True),
        ("-5", "The answer is \u22125.", True),
        ("34", "Final Answer: The largest $n$ is 34.", True),
    ],
}  # fmt: skip
ALL = [(kind, *case) for kind, cases in CASES.items() for case in cases]


SPELLINGS = ["{}", "{:,}", "\\text{{{}}}", "{}.", "**{}**", "{} people", "{}.0"]


@pytest.mark.parametrize(("kind", "gold", "response", "right"), ALL)
def test_an_answer_is_right_where_it_says_the_same(kind, gold, response, right):
    assert (score(gold, response)["score"] == 1.0) == right, kind


@settings(max_examples=60, deadline=None)
@given(
    st.integers(-(10**12), 10**12),
    st.sampled_from(SPELLINGS),
)
def test_an_integer_is_itself_in_every_spelling_and_no_other(value, spelling):
    given_text = f"\\boxed{{{spelling.format(value)}}}"
    assert score(str(value), given_text)["score"] == 1.0
    assert score(str(value + 1), given_text)["score"] == 0.0


@pytest.mark.parametrize(
    "first, second", list(itertools.permutations(["cm", "m", "km", "kg", "s", "apples", "cm^2"], 2))
)
def test_units_that_both_have_must_agree(first, second):
    def with_unit(unit: str) -> str:
        word, _, power = unit.partition("^")
        return f"7 \\text{{ {word}}}" + (f"^{power}" if power else "")

    assert score(with_unit(first), f"\\boxed{{{with_unit(second)}}}")["score"] == 0.0
    assert score(with_unit(first), f"\\boxed{{{with_unit(first)}}}")["score"] == 1.0
    assert score("7", f"\\boxed{{{with_unit(first)}}}")["score"] == 1.0


def test_require_box_leaves_stated_answers_unread(write_jsonl):
    path = write_jsonl({"problem": "?", "answer": "5"})
    for response, with_box, without in (
        ("The answer is 5.", "unparsable", "correct"),
        (r"\boxed{5}", *["correct"] * 2),
    ):
        for require, outcome in ((True, with_box), (False, without)):
            env = MathEnv(path, require_box=require)
            env.reset(seed=0, options={"index": 0})
            assert env.step(response)[4]["outcome"] == outcome


@pytest.mark.parametrize("answer", ["4 10/3", "5 6", "(1, 2", "1011_2+1"])
def test_a_gold_answer_that_cannot_be_read_whole_is_refused_with_its_row(write_jsonl, answer):
    with pytest.raises(ValueError, match=r"row 1: the gold answer .* cannot be read whole"):
        MathEnv(write_jsonl({"problem": "?", "answer": "1"}, {"problem": "?", "answer": answer}))


@pytest.mark.parametrize(
    "answer", ["1 3/4", r"\langle 2,5\rangle", "6 feet 2 inches", "$221,$8$", "t(0,4]", "10:30 a.m."]
)
def test_a_gold_answer_that_is_read_whole_is_taken(answer):
    check_gold(answer)


@pytest.fixture(scope="module")
def reported(data_folder) -> list[dict[str, Any]]:
    lines = (data_folder / "verifier_cases_2.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_reported_cases_get_the_verdicts_that_are_expected(reported):
    rows = [row for row in reported if row["env"] == "Math"]
    with VerifierPool(deadline_s=10.0) as pool:
        scores = [pool.verify(MATH_ANSWER, str(row["gold"]), row["pred"]).score for row in rows]
    assert len(rows) > 300
    assert [row for row, got in zip(rows, scores, strict=True) if (got == 1.0) != row["expected"]] == []


def test_the_reported_choices_get_the_verdicts_that_are_expected(reported):
    for row in (row for row in reported if row["env"] == "MultipleChoice"):
        place, _ = choose(row["pred"], row["choices"])
        assert (place is not None and "ABCDEFGHIJ"[place] == row["gold"]) == row["expected"], row
