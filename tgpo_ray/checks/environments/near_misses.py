"""Wrong answers that look similar to the right one."""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_PLACES = 6  # how many numbers of an answer are changed, one at a time, from its end
MAX_DIGITS = 6  # of a number that one more digit must make another: a rounded decimal stays the same
NUMBER = re.compile(r"\d+(?:\.\d+)?")
LETTER = re.compile(r"[^\W\d_]")


def near_misses(response: str, answer: str | None) -> dict[str, list[str]]:
    """Returns kind -> responses that differ from the gold `response` only in the answer.

    Args:
        answer: the part that the verifier reads. The whole response is changed if it is None or not in the response.

    Each number of the answer has kinds of its own, so that a verifier that reads only a part of it is found out: one
    that drops units takes `5 cm^3` for `5 cm^2`. A verifier fails if it accepts every response of a kind.
    """
    start = response.rfind(answer) if answer else -1
    start, stop = (start, start + len(answer)) if answer and start >= 0 else (0, len(response))
    text = response[start:stop]
    numbers = list(NUMBER.finditer(text))[-MAX_PLACES:]
    changes: dict[str, Callable[[str], str]] = {"one more": _one_more, "longer by a digit in front": "1{}".format}
    changed: dict[str, list[str]] = {"an empty response": [""]}
    for place, number in enumerate(numbers, start=1):
        name = "the number" if len(numbers) == 1 else f"number {place} of {len(numbers)}"
        rounded = "." in number[0] and len(number[0]) > MAX_DIGITS
        behind = {} if rounded else {"longer by a digit behind": "{}1".format}
        for kind, change in {**changes, **behind}.items():
            new = text[: number.start()] + change(number[0]) + text[number.end() :]
            changed[f"{name} is {kind}"] = [response[:start] + new + response[stop:]]
    letters = list(LETTER.finditer(text))
    if not numbers and letters:
        last = letters[-1]
        new = text[: last.start()] + _next_letter(last[0]) + text[last.end() :]
        changed["the last letter is the next one"] = [response[:start] + new + response[stop:]]
    return changed


def _one_more(number: str) -> str:
    whole, point, rest = number.partition(".")
    return f"{int(whole) + 1 if len(whole) < 4000 else '1' + whole}{point}{rest}"


def _next_letter(letter: str) -> str:
    return {"z": "a", "Z": "A"}.get(letter, chr(ord(letter) + 1))
