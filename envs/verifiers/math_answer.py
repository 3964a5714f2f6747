"""Compares mathematical answers with math-verify. Runs in a worker, loaded by file path: no relative imports here."""

from __future__ import annotations

import functools
import logging
from typing import Any

from math_verify import parse, verify

MAX_EXTRACTED = 200  # characters of the answer that travel back

# Without its SIGALRM time-out (main threads only) the library warns once; the pool's deadline replaces it.
logging.getLogger("math_verify").setLevel(logging.ERROR)


@functools.lru_cache(maxsize=1024)  # the responses of a group share their gold answer
def parsed_gold(gold: str) -> list[Any]:
    return parse(f"${gold}$", parsing_timeout=None)  # type: ignore[arg-type]


def score(gold: str, text: str) -> dict[str, Any]:
    """`verify(parse("$gold$"), parse(text))`, as in the paper's reward, without SIGALRM.

    `verify` is not symmetric: gold comes first. A text without anything that parses is `unparsable`; a gold answer
    that does not parse is an `error` of the data, not of the response.
    """
    expected = parsed_gold(gold)
    if not expected:
        return {"score": 0.0, "outcome": "error", "detail": f"the gold answer {gold!r} cannot be parsed"}
    found = parse(text, parsing_timeout=None)  # type: ignore[arg-type]
    if not found:
        return {"score": 0.0, "outcome": "unparsable", "detail": "no answer found in the response"}
    correct = bool(verify(expected, found, timeout_seconds=None))
    return {"score": float(correct), "outcome": "correct" if correct else "wrong", "extracted": shown(found)}


def shown(found: list[Any]) -> str:
    """The answer as written where math-verify kept the text, else as sympy prints it."""
    written = [value for value in found if isinstance(value, str)]
    return (written[0] if written else str(found[0]))[:MAX_EXTRACTED]
