"""Compares mathematical answers with math-verify. Runs in a worker, loaded by file path: no relative imports here."""

from __future__ import annotations

import functools
import logging
import re
from typing import Any

from math_verify import parse, verify

MAX_EXTRACTED = 200  # characters of the answer that travel back
MAX_FORMULA = 1000  # characters of a response that is nothing but a formula

_DELIMITER = re.compile(r"\$|\\f?boxed|\\\(|\\\[|\\begin")
_COMMAND = re.compile(r"\\(?:text|mathrm|operatorname|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{3,}")

# Without its SIGALRM time-out (main threads only) the library warns once; the pool's deadline replaces it.
logging.getLogger("math_verify").setLevel(logging.ERROR)


@functools.lru_cache(maxsize=1024)  # the responses of a group share their gold answer
def parsed_gold(gold: str) -> list[Any]:
    # a gold answer that brings its own boxes says by itself where they end
    return parse(gold if "\\boxed" in gold and "$" not in gold else f"${gold}$", parsing_timeout=None)  # type: ignore[arg-type]


def score(gold: str, text: str) -> dict[str, Any]:
    """`verify(parse("$gold$"), parse(text))`, as in the paper's reward, without SIGALRM.

    `verify` is not symmetric: gold comes first. math-verify reads LaTeX between delimiters alone; where the text is
    nothing but a formula, and was not right as it stands, it is read once more between `$`. A text without anything
    that parses is `unparsable`; a gold answer that does not parse is an `error` of the data, not of the response.
    """
    expected = parsed_gold(gold)
    if not expected:
        return {"score": 0.0, "outcome": "error", "detail": f"the gold answer {gold!r} cannot be parsed"}
    found = parse(text, parsing_timeout=None)  # type: ignore[arg-type]
    correct = bool(found) and bool(verify(expected, found, timeout_seconds=None))
    if not correct and is_bare_formula(text):
        formula = parse(f"${text.strip()}$", parsing_timeout=None)  # type: ignore[arg-type]
        found = formula or found
        correct = bool(formula) and bool(verify(expected, formula, timeout_seconds=None))
    if not found:
        return {"score": 0.0, "outcome": "unparsable", "detail": "no answer found in the response"}
    return {"score": float(correct), "outcome": "correct" if correct else "wrong", "extracted": shown(found)}


def is_bare_formula(text: str) -> bool:
    """True for a formula without delimiters and words: `\\sqrt{2}`, not `so x is \\sqrt{2}, I think`."""
    if not text.strip() or len(text) > MAX_FORMULA or "\n" in text.strip() or _DELIMITER.search(text):
        return False
    return _WORD.search(_COMMAND.sub(" ", text)) is None


def shown(found: list[Any]) -> str:
    """The answer as written where math-verify kept the text, else as sympy prints it."""
    written = [value for value in found if isinstance(value, str)]
    return (written[0] if written else str(found[0]))[:MAX_EXTRACTED]
