"""Texts that nobody expects, for hypothesis: any code point, control characters, megabytes, deep nesting."""

from __future__ import annotations

from hypothesis import strategies as st

ODD = st.text(st.characters(exclude_categories=()), max_size=60)  # lone surrogates too
CONTROL = st.text("\0\x01\x07\x08\x1b\r\n\v\f\x7f\x85\u2028\u202e\ufeff\ufffe\U0010ffff`<>{}\\$", max_size=60)
WORDS = st.sampled_from(
    ["\\boxed{", "}", "```python\n", "\n```\n", "<answer>", "</answer>", "</think>", "def add(a, b):", "lambda:", "x"]
)
SHORT = st.lists(ODD | CONTROL | WORDS, max_size=5).map("".join)
PAIRS = ("()", "[]", "{}", ("\\frac{", "}{2}"), ("\\boxed{", "}"), ("<answer>", "</answer>"), ("f(", ")"), ("not ", ""))


def nested(deepest: int) -> st.SearchStrategy[str]:
    """Brackets, boxes and calls within each other, closed or not."""

    def build(pair: tuple[str, str], depth: int, inner: str, closed: bool) -> str:
        return pair[0] * depth + inner + pair[1] * (depth if closed else 0)

    pairs = st.sampled_from(PAIRS).map(tuple)
    return st.builds(build, pairs, st.integers(1, deepest), SHORT, st.booleans())


def long(most: int) -> st.SearchStrategy[str]:
    """One short text over and over, up to `most` characters."""
    return st.builds(lambda part, count: (part * count)[:most], SHORT.filter(bool), st.integers(1, most))
