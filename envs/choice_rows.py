"""Rows of a file as multiple-choice problems."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Number
from typing import Any

from .cells import is_missing, shown
from .choices import LETTERS

MIN_CHOICES, MAX_CHOICES = 2, len(LETTERS)

_NAMES_LETTERS = re.compile(
    r"(?:\b(?:both|neither|either|only|options?|choices?)\s+\(?[A-J]\)?\b|\b[A-J] (?:and|or) [A-J]\b)"
)
_NUMBER = re.compile(r"\s*-?\d+(?:\.\d+)?\s*")


@dataclass(frozen=True, slots=True)
class ChoiceRow:
    """One problem of a file: its options in file order, and the index of the right one."""

    problem: str
    choices: tuple[str, ...]
    answer: int

    @property
    def may_be_shuffled(self) -> bool:
        """False where an option names others by letter, as in `Both A and B`."""
        return not any(_NAMES_LETTERS.search(choice) for choice in self.choices)


def choice_row(
    row: Mapping[str, Any], columns: Mapping[str, str | Sequence[str]], answer_index: int | None = None
) -> ChoiceRow:
    """A row's options and right answer.

    `columns["choices"]` names a column with a list (MMLU-Pro), or with `{"text": [...], "label": [...]}` (ARC). As a
    list it names columns with one wrong option each, and the answer's text is the right option (GPQA).

    Args:
        answer_index: what the answers count the options from, 0 or 1. None: the answers are letters, labels or texts.

    Raises:
        ValueError: for options in one text, one that is missing or no text, fewer than 2 or more than 10 options, more
            or fewer labels than texts, an answer that is none of them, and an integer that may be an option's text or
            its place.
    """
    answer = row[str(columns["answer"])]
    texts, labels = _options(row, columns["choices"], answer)
    if not MIN_CHOICES <= len(texts) <= MAX_CHOICES:
        raise ValueError(
            f"a problem must have {MIN_CHOICES} to {MAX_CHOICES} choices, got {len(texts)}: {texts!r:.200}"
        )
    problem = str(row[str(columns["problem"])])
    if answer_index is not None:
        return ChoiceRow(problem, tuple(texts), _counted(answer, answer_index, len(texts)))
    return ChoiceRow(problem, tuple(texts), _named(answer, texts, labels, columns["choices"]))


def _options(row: Mapping[str, Any], names: str | Sequence[str], answer: Any) -> tuple[list[str], list[str]]:
    """The texts of the options and their labels, where the file has labels."""
    if not isinstance(names, str):
        texts = [_text(row[name], f"the column {name!r}") for name in names]
        right = _text(answer, "the answer")
        return (texts if right in texts else [right, *texts]), []
    options = row[names]
    if not isinstance(options, Mapping) or "text" not in options:
        return _texts(options, "choice"), []
    texts = _texts(options["text"], "choice")
    labels = [] if options.get("label") is None else _texts(options["label"], "label")
    if labels and len(labels) != len(texts):
        raise ValueError(
            f"the choices must have as many labels as texts, got {len(labels)} labels {labels!r:.100} and {len(texts)} "
            f"texts {texts!r:.100}: add or drop some"
        )
    return texts, labels


def _texts(options: Any, what: str) -> list[str]:
    if isinstance(options, str | bytes | Mapping) or not hasattr(options, "__iter__"):
        raise ValueError(
            f"the {what}s must be a list of texts, got {type(options).__name__} {options!r:.100}: write a JSON list "
            'such as ["one", "two"] instead of one text'
        )
    return [_text(option, f"{what} {number}") for number, option in enumerate(options, start=1)]


def _text(option: Any, what: str) -> str:
    """The text of an option or a label; a number is written out."""
    if is_missing(option):
        raise ValueError(f"{what} is missing, got {option!r}: fill it in or drop the row")
    if isinstance(option, bool) or not isinstance(option, str | Number):
        raise ValueError(f"{what} must be text, got {type(option).__name__} {shown(option)}: write it as text")
    return str(option).strip()


def _counted(answer: Any, first: int, count: int) -> int:
    """The place of an answer that counts the options from `first`."""
    text = str(answer).strip()
    place = int(text) - first if re.fullmatch(r"\d+", text) else -1
    if not 0 <= place < count:
        raise ValueError(
            f"the answer must be a whole number from {first} to {first + count - 1} with answer_index: {first}, got "
            f"{answer!r}"
        )
    return place


def _named(answer: Any, texts: list[str], labels: list[str], names: str | Sequence[str]) -> int:
    """The place of an answer that is a letter, a label or an option's text."""
    text = str(answer).strip()
    number = isinstance(answer, int) and not isinstance(answer, bool)
    if number and not labels and any(_NUMBER.fullmatch(option) for option in texts):
        raise ValueError(
            f"the answer {answer} may be an option's text or its place in {texts!r:.100}: say answer_index: 0 or "
            "answer_index: 1 where answers count the options, or write the answer as a text"
        )
    labels = labels or list(LETTERS[: len(texts)])
    if text not in labels and text not in texts:
        fix = " (answer_index: 0 or 1 where answers count the options)" if text.isdigit() else ""
        raise ValueError(f"the answer must be one of {', '.join(labels)} or the text of a choice, got {text!r}{fix}")
    # A label wins over a text: an option may itself read `B`. GPQA's shape has no labels, only texts.
    return labels.index(text) if text in labels and isinstance(names, str) else texts.index(text)
