"""Compares mathematical answers with math-verify. Runs in a worker, loaded by file path: no relative imports here."""

from __future__ import annotations

import functools
import itertools
import logging
import re
from typing import Any

from math_verify import parse, verify

MAX_EXTRACTED = 200  # characters of the answer that travel back
MAX_FORMULA = 1000  # characters of a response that is only a formula
MAX_VALUES = 6  # values paired under a tolerance: up to 720 pairings

_DELIMITER = re.compile(r"\$|\\f?boxed|\\\(|\\\[|\\begin")
_COMMAND = re.compile(r"\\(?:text|mathrm|operatorname|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+")
_WORD = re.compile(r"[^\W\d_]{3,}")
_NAMED = re.compile(r"\s*\$*\s*[A-Za-z](?:_\{[^{}$=]*\}|_[A-Za-z0-9])?\s*=([^=$]+)\$*\s*")  # `I_{max} = 3`

# math-verify drops an upright constant and what follows it.
_UPRIGHT = re.compile(r"(\\[A-Za-z]+\s*)?\\mathrm\s*\{\s*([ei])\s*\}")

# Without its SIGALRM time-out (main threads only) the library warns once; the pool's deadline replaces it.
logging.getLogger("math_verify").setLevel(logging.ERROR)


@functools.lru_cache(maxsize=1024)  # the responses of a group share their gold answer
def parsed_gold(gold: str) -> list[Any]:
    # a gold answer with boxes of its own needs no delimiters
    return parsed(gold if "\\boxed" in gold and "$" not in gold else f"${gold}$")


def parsed(text: str) -> list[Any]:
    """The values that math-verify reads in `text`. The constants `e` and `i` may be upright."""
    text = _UPRIGHT.sub(lambda match: f"{match[1] or ''}{' ' if match[1] else ''}{match[2]}", text)
    return parse(text, parsing_timeout=None)  # type: ignore[arg-type]


def score(gold: str, text: str, settings: dict[str, Any] | None = None) -> dict[str, Any]:
    """`verify(parse("$gold$"), parse(text))`, as in the paper's reward, without SIGALRM.

    `verify` is not symmetric: gold comes first. math-verify reads LaTeX only between delimiters. A text that is only a
    formula and was not right is read once more between `$`. A gold answer that names its value, `I_{max} = ...`, also
    stands for that value where the response is no equation. A text in which nothing parses is `unparsable`. A gold
    answer that does not parse is an `error` of the data, not of the response.

    Args:
        settings: `rounding`, decimal places to which numbers must agree (6). `set_relations`, whether an inequality may
            answer for an interval and the other way round (no). `tolerance`, how far numbers may be off: one number for
            all, or one for each value of the gold answer in its order (none).
    """
    settings = settings or {}
    expected = parsed_gold(gold)
    if not expected:
        return {"score": 0.0, "outcome": "error", "detail": f"the gold answer {gold!r} cannot be parsed"}
    answer = parsed(text)
    correct = bool(answer) and agree(gold, answer, settings)
    if not correct and is_bare_formula(text):
        formula = parsed(f"${text.strip()}$")
        answer = formula or answer
        correct = bool(formula) and agree(gold, formula, settings)
    if not answer:
        return {"score": 0.0, "outcome": "unparsable", "detail": "no answer found in the response"}
    return {"score": float(correct), "outcome": "correct" if correct else "wrong", "extracted": as_written(answer)}


def agree(gold: str, answer: list[Any], settings: dict[str, Any]) -> bool:
    """True where the answer is the gold answer's value under the settings."""
    options: dict[str, Any] = {"float_rounding": settings.get("rounding", 6), "timeout_seconds": None}
    options["allow_set_relation_comp"] = bool(settings.get("set_relations"))
    if verify(parsed_gold(gold), answer, **options):
        return True
    named = _NAMED.fullmatch(gold)
    if named and not any(isinstance(value, str) and "=" in value for value in answer):
        value = parsed_gold(named[1])
        if value and verify(value, answer, **options):
            return True
    tolerance = settings.get("tolerance")
    return tolerance is not None and within(gold, answer, tolerance)


def within(gold: str, answer: list[Any], tolerance: float | list[float]) -> bool:
    """True where both have equally many real numbers, and a pairing keeps every number within its tolerance."""
    answer_numbers = numbers(answer)
    if isinstance(tolerance, list):
        limits = tolerance
        pieces = gold.split(",")
        values = [numbers(parsed_gold(piece)) for piece in pieces] if len(pieces) == len(tolerance) else [[]]
        gold_numbers = [value[0] for value in values if len(value) == 1]
    else:
        gold_numbers = numbers(parsed_gold(gold))
        limits = [tolerance] * len(gold_numbers)
    counts = {len(gold_numbers), len(limits), len(answer_numbers)}
    if len(counts) != 1 or not 1 <= len(gold_numbers) <= MAX_VALUES:
        return False
    slack = 1e-9  # of rounding: 0.003 is 0.001 from 0.002
    return any(
        all(abs(w - g) <= t * (1 + slack) for w, g, t in zip(gold_numbers, order, limits, strict=True))
        for order in itertools.permutations(answer_numbers)
    )


def numbers(answer: list[Any]) -> list[Any]:
    """The real, finite numbers that an answer consists of; empty for any other answer."""
    if not answer or isinstance(answer[0], str):
        return []
    value = answer[0]
    parts = list(value.args) if type(value).__name__ in ("FiniteSet", "Tuple") else [value]
    if not all(getattr(part, "is_number", False) for part in parts):
        return []
    evaluated = [part.evalf(15) for part in parts]
    return evaluated if all(part.is_real and part.is_finite for part in evaluated) else []


def is_bare_formula(text: str) -> bool:
    """True for a formula without delimiters and words: `\\sqrt{2}`, not `so x is \\sqrt{2}, I think`."""
    if not text.strip() or len(text) > MAX_FORMULA or "\n" in text.strip() or _DELIMITER.search(text):
        return False
    return _WORD.search(_COMMAND.sub(" ", text)) is None


def as_written(answer: list[Any]) -> str:
    """The answer's own text where math-verify has it, else as sympy prints it."""
    texts = [value for value in answer if isinstance(value, str)]
    return (texts[0] if texts else str(answer[0]))[:MAX_EXTRACTED]
