"""Wrong answers that look similar to the right one."""

from __future__ import annotations

import re
from collections.abc import Callable

MAX_PLACES = 3  # how many numbers of an answer are changed, one at a time
NUMBER = re.compile(r"\d+(?:\.\d+)?")
LETTER = re.compile(r"[^\W\d_]")


def near_misses(response: str, answer: str | None) -> dict[str, list[str]]:
    """Returns kind -> responses that differ from the gold `response` only in the answer.

    Args:
        answer: the part that the verifier reads. The whole response is changed if it is None or not in the response.

    A kind has one response for each place, because a change may keep the value: `5 cm^2` is `5 cm^3` to a verifier that
    drops units. A verifier fails if it accepts every response of a kind.
    """
    start = response.rfind(answer) if answer else -1
    start, stop = (start, start + len(answer)) if answer and start >= 0 else (0, len(response))
    text = response[start:stop]
    kinds = {
        "the number is one more": _replaced(NUMBER, text, _one_more),
        "a digit in front": _replaced(NUMBER, text, lambda number: f"1{number}"),
        "a digit behind": _replaced(NUMBER, text, lambda number: f"{number}1"),
    }
    if not NUMBER.search(text):
        kinds = {"the last letter is the next one": _replaced(LETTER, text, _next_letter)[-1:]}
    changed = {kind: [response[:start] + new + response[stop:] for new in news] for kind, news in kinds.items() if news}
    return {"an empty response": [""], **changed}


def _replaced(pattern: re.Pattern[str], text: str, change: Callable[[str], str]) -> list[str]:
    places = list(pattern.finditer(text))[-MAX_PLACES:]
    return [text[: place.start()] + change(place.group()) + text[place.end() :] for place in places]


def _one_more(number: str) -> str:
    whole, point, rest = number.partition(".")
    return f"{int(whole) + 1 if len(whole) < 4000 else '1' + whole}{point}{rest}"


def _next_letter(letter: str) -> str:
    return {"z": "a", "Z": "A"}.get(letter, chr(ord(letter) + 1))
