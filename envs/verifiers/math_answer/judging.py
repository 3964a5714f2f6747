"""The verdict on one response."""

from __future__ import annotations

import functools
from typing import Any

from .comparing import same, within
from .extraction import answer_in, gold_answer_in
from .reading import Answer, read

MAX_EXTRACTED = 200  # characters of the answer that travel back


@functools.lru_cache(maxsize=1024)  # the responses of a group share their gold answer
def _gold(gold: str) -> Answer | None:
    text = gold_answer_in(gold)
    return read(text) if text.strip(" $.") else None


def score(gold: str, text: str, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    r"""Whether the answer that `text` gives is the gold answer.

    The last `\boxed{}` is the answer, with boxes joined to it by nothing but `and`, `or`, commas and blanks; without a
    box what is stated, as after `answer is`, else the last formula or number. A text in which nothing is found is
    `unparsable`. A gold answer that is empty is an `error` of the data, not of the response.

    Args:
        settings: `rounding`, digits to which decimals must agree (6). `set_relations`, whether an inequality may answer
            for an interval (no). `tolerance`, how far numbers may be off: one number for all, or one for each value of
            the gold answer in its order (none). `require_box`, whether only a box counts (no).
    """
    settings = settings or {}
    expected = _gold(gold)
    if expected is None:
        return {"score": 0.0, "outcome": "error", "detail": f"the gold answer {gold!r} is empty"}
    found = answer_in(text, require_box=bool(settings.get("require_box")))
    if found is None:
        where = "\\boxed{} in the response" if settings.get("require_box") else "answer found in the response"
        return {"score": 0.0, "outcome": "unparsable", "detail": f"no {where}"}
    answer = read(found)
    tolerance = settings.get("tolerance")
    correct = same(expected, answer, settings) or (tolerance is not None and within(expected, answer, tolerance))
    outcome = "correct" if correct else "wrong"
    return {"score": float(correct), "outcome": outcome, "extracted": found.strip()[:MAX_EXTRACTED]}
