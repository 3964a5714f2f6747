r"""Reads `\boxed{...}` from text, in time linear in its length."""

from __future__ import annotations

import re
from dataclasses import dataclass

# An escaped brace, as in `\left\{`, neither opens nor closes a group. Without braces only a number is a box: a sentence
# may speak of \boxed.
_TOKEN = re.compile(
    r"(?P<box>\\(?:f?boxed|fbox|framebox)\s*\{)|(?P<bare>\\f?boxed\s*(?P<number>-?\d+(?:\.\d+)?))"
    r"|(?P<escaped>\\[{}])|(?P<open>\{)|(?P<close>\})"
)


@dataclass(frozen=True, slots=True)
class Box:
    """One outermost box: its place in the text, braces included, and its content."""

    start: int
    end: int
    content: str


def boxes(text: str) -> list[Box]:
    r"""Every outermost complete `\boxed{...}` in order, with balanced braces. `\fbox{}` and `\boxed 5` are boxes too.

    A box that never closes, as in a truncated response, is not an answer.
    """
    found: list[Box] = []
    opened: list[tuple[int, int] | None] = []  # of each open group: start and content of a box; None for other groups
    boxes_open = 0
    for token in _TOKEN.finditer(text):
        if token["box"] or token["open"]:
            opened.append((token.start(), token.end()) if token["box"] else None)
            boxes_open += bool(token["box"])
        elif token["bare"] and not boxes_open:
            found.append(Box(token.start(), token.end(), token["number"]))
        elif token["close"] and opened:
            place = opened.pop()
            boxes_open -= place is not None
            if place is not None and boxes_open == 0:
                found.append(Box(place[0], token.end(), text[place[1] : token.start()]))
    return found


def boxed_answers(text: str) -> list[str]:
    r"""Contents of every outermost complete `\boxed{...}` in order."""
    return [box.content for box in boxes(text)]


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{...}`, or None without one."""
    found = boxes(text)
    return found[-1].content if found else None
