"""Choices of a multiple-choice problem: read from a row of a file, and recognised in a response."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .boxed import last_boxed

LETTERS = "ABCDEFGHIJ"
MIN_CHOICES, MAX_CHOICES = 2, len(LETTERS)
MAX_ANSWER = 2000  # characters of an answer that are read

_STATED = re.compile(r"\banswer[ \t*]{0,4}(?:is\b[ \t*]{0,4}:?|[:=])[ \t*]{0,4}([^\n]{1,2000})", re.IGNORECASE)
_FONT = re.compile(r"\\(?:text|textbf|textit|textrm|mathrm|mathbf|mathsf|mathit)\s*\{(.*)\}", re.DOTALL)
_LETTER = re.compile(r"(?:option|choice)?\s*[(\[]?([A-Ja-j])[)\]]?[.:,]?", re.IGNORECASE)
_LETTER_AND_TEXT = re.compile(r"(?:option\s+|choice\s+)?(?:[(\[]([A-J])[)\]]|([A-J])[).:])[.:]?\s+(.*)", re.DOTALL)
_NAMES_LETTERS = re.compile(
    r"(?:\b(?:both|neither|either|only|options?|choices?)\s+\(?[A-J]\)?\b|\b[A-J] (?:and|or) [A-J]\b)"
)


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


def choice_row(row: Mapping[str, Any], columns: Mapping[str, str | Sequence[str]]) -> ChoiceRow:
    """A row's options and right answer.

    `columns["choices"]` names a column with a list (MMLU-Pro), or with `{"text": [...], "label": [...]}` (ARC). As a
    list it names columns with one wrong option each, and the answer's text is the right option (GPQA).

    Raises:
        ValueError: for fewer than 2 or more than 10 options, or an answer that is none of them.
    """
    answer = str(row[str(columns["answer"])]).strip()
    names = columns["choices"]
    if not isinstance(names, str):
        texts = [str(row[name]).strip() for name in names]
        texts, labels = (texts if answer in texts else [answer, *texts]), []
    elif isinstance(row[names], Mapping):
        texts, labels = [str(text) for text in row[names]["text"]], [str(label) for label in row[names]["label"]]
    else:
        texts, labels = [str(text) for text in row[names]], []
    if not MIN_CHOICES <= len(texts) <= MAX_CHOICES:
        raise ValueError(
            f"a problem must have {MIN_CHOICES} to {MAX_CHOICES} choices, got {len(texts)}: {texts!r:.200}"
        )
    labels = labels or list(LETTERS[: len(texts)])
    if answer not in labels and answer not in texts:
        raise ValueError(f"the answer must be one of {', '.join(labels)} or the text of a choice, got {answer!r}")
    # A label wins over a text: an option may itself read `B`. GPQA's shape has no labels, only texts.
    index = labels.index(answer) if answer in labels and isinstance(names, str) else texts.index(answer)
    return ChoiceRow(str(row[str(columns["problem"])]), tuple(texts), index)


def stated_answer(response: str) -> str | None:
    r"""The last `\boxed{}`; without one, what follows the last `Answer:` or `answer is` on its line."""
    boxed = last_boxed(response)
    if boxed is not None:
        return boxed
    answer = None
    for match in _STATED.finditer(response):  # the last one counts: earlier ones may be drafts
        answer = match[1]
    return answer


def chosen(answer: str, choices: Sequence[str]) -> int | None:
    """Which option `answer` means: a letter (`B`, `(b)`, `Option B.`), an option's text, or both if they agree."""
    text = _bare(answer[:MAX_ANSWER])
    letter = _LETTER.fullmatch(text)  # a letter wins over an option's text
    if letter:
        index = LETTERS.index(letter[1].upper())
        return index if index < len(choices) else None
    by_text = _with_text(text, choices)
    both = _LETTER_AND_TEXT.fullmatch(text)
    if by_text is not None or both is None:
        return by_text
    by_letter, by_text = LETTERS.index(both[1] or both[2]), _with_text(_bare(both[3]), choices)
    if by_letter >= len(choices) or (
        by_text is not None and same_text(choices[by_text]) != same_text(choices[by_letter])
    ):
        return None  # the letter of one option and the text of another
    return by_letter


def same_text(text: str) -> str:
    """`text` with single blanks and without a full stop at the end, as neither distinguishes options."""
    return " ".join(text.split()).rstrip(".").rstrip()


def _with_text(text: str, choices: Sequence[str]) -> int | None:
    target, texts = same_text(text), [same_text(_bare(choice)) for choice in choices]
    if target in texts:  # `rr` and `RR` are two options, so the exact text goes first
        return texts.index(target)
    casefolds = [choice.casefold() for choice in texts]
    matches = {texts[i] for i, choice in enumerate(casefolds) if choice == target.casefold()}
    return casefolds.index(target.casefold()) if len(matches) == 1 else None


def _bare(text: str) -> str:
    r"""`text` without the fonts, `$`, stars and quotes around all of it: `\textbf{(B)}` is `(B)`."""
    for _ in range(4):  # wrappers may be nested
        inner = text.strip().strip("*$`\"'").strip()
        font = _FONT.fullmatch(inner)
        inner = font[1] if font else inner
        if inner == text:
            break
        text = inner
    return text
