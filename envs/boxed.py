r"""Reads `\boxed{...}` answers from text, in time linear in its length."""

from __future__ import annotations

import re

# An escaped brace, as in `\left\{`, neither opens nor closes a group.
_TOKEN = re.compile(r"(?P<box>\\f?boxed\s*\{)|(?P<escaped>\\[{}])|(?P<open>\{)|(?P<close>\})")


def boxed_answers(text: str) -> list[str]:
    r"""Contents of every outermost complete `\boxed{...}` in order, with balanced braces.

    A box that never closes, as in a truncated response, is not an answer.
    """
    answers: list[str] = []
    opened: list[int | None] = []  # where each open group's content starts; None for a group that is no box
    boxes_open = 0
    for token in _TOKEN.finditer(text):
        if token["box"] or token["open"]:
            opened.append(token.end() if token["box"] else None)
            boxes_open += bool(token["box"])
        elif token["close"] and opened:
            start = opened.pop()
            boxes_open -= start is not None
            if start is not None and boxes_open == 0:
                answers.append(text[start : token.start()])
    return answers


def last_boxed(text: str) -> str | None:
    r"""Content of the last complete `\boxed{...}`, or None without one."""
    answers = boxed_answers(text)
    return answers[-1] if answers else None
