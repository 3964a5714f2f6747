"""Whether a gold answer can be read whole, without sympy."""

from __future__ import annotations

import re

from .extraction import gold_answer_in
from .normalise import normalised
from .numerals import side_by_side
from .reading import NUMBER_IN_BASE, Answer, Group, Value, read
from .splitting import is_balanced

_PLAIN = re.compile(r"-?\d+(?:\.\d+)?")


def check_gold(answer: str) -> None:
    """Refuses a gold answer of which only a part would be read.

    Raises:
        ValueError: with the answer, the part that cannot be read, and the fix.
    """
    if _PLAIN.fullmatch(answer):
        return
    text = gold_answer_in(answer)
    reason = _unread(read(text)) if is_balanced(normalised(text)) else "a bracket does not close"
    if reason:
        raise ValueError(
            f"the gold answer {answer!r} cannot be read whole: {reason}. Write it as one value, a list with commas, or "
            "a \\boxed{} of it"
        )


def _unread(answer: Answer) -> str:
    if isinstance(answer, Group):
        return next((reason for member in answer.members if (reason := _unread(member))), "")
    return _unread_value(answer)


def _unread_value(value: Value) -> str:
    if value.whole or value.words:
        return ""
    if side_by_side(value.value) and "\\text" not in value.value:
        return f"{value.value!r} has two numbers side by side, and is no mixed number"
    if NUMBER_IN_BASE.search(value.value):
        return f"{value.value!r} has a number in a base within a formula"
    return ""
