"""Rows of a file as multiple-choice problems."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .cells import is_missing
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
        ValueError: for options in one text, fewer than 2 or more than 10 options, an answer that is none of them, and
            an integer that may be an option's text or its place.
    """
    answer = row[str(columns["answer"])]
    texts, labels = _options(row, columns["choices"], str(answer).strip())
    if not MIN_CHOICES <= len(texts) <= MAX_CHOICES:
        raise ValueError(
            f"a problem must have {MIN_CHOICES} to {MAX_CHOICES} choices, got {len(texts)}: {texts!r:.200}"
        )
    problem = str(row[str(columns["problem"])])
    if answer_index is not None:
        return ChoiceRow(problem, tuple(texts), _counted(answer, answer_index, len(texts)))
    return ChoiceRow(problem, tuple(texts), _named(answer, texts, labels, columns["choices"]))


def _options(row: Mapping[str, Any], names: str | Sequence[str], answer: str) -> tuple[list[str], list[str]]:
    """The texts of the options and their labels, where the file has labels."""
    if not isinstance(names, str):
        texts = _texts(row[name] for name in names)
        return (texts if answer in texts else [answer, *texts]), []
    options = row[names]
    if isinstance(options, Mapping) and "text" in options:
        texts, labels = _texts(options["text"]), [str(label).strip() for label in options.get("label", ())]
        if labels and len(labels) != len(texts):
            raise ValueError(f"the choices have {len(texts)} texts and {len(labels)} labels: each needs one")
        return texts, labels
    if isinstance(options, str | bytes | Mapping) or not hasattr(options, "__iter__"):
        raise ValueError(
            f"the choices must be a list of texts, got {type(options).__name__} {options!r:.100}: write a JSON list "
            'such as ["one", "two"] instead of one text'
        )
    return _texts(options), []


def _texts(options: Iterable[Any]) -> list[str]:
    """The options' texts without the blanks around them."""
    texts = []
    for option in options:
        if isinstance(option, list | tuple | Mapping) or is_missing(option):
            raise ValueError(f"each choice must be a text or a number, got {option!r:.100}")
        texts.append(str(option).strip())
    return texts


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
