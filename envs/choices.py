"""Which option of a multiple-choice problem a response chooses."""

from __future__ import annotations

import re
from collections.abc import Sequence

from .verifiers.math_answer import boxes

LETTERS = "ABCDEFGHIJ"
MAX_ANSWER = 2000  # characters of an answer that are read
MAX_STATEMENTS = 50  # of a response that are read, from its end

_STATED = re.compile(
    r"\b(?:answer|(?:correct|right|best)\s+(?:option|choice))\b(?:[^\n.:=,;]{0,60}?\bis\b|[ \t*]{0,4}[:=])[ \t*:]{0,6}",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\W{0,4}(?:not|n't|neither|never)\b", re.IGNORECASE)
_FONT = re.compile(
    r"\\(?:text|textbf|textit|textrm|textsf|mathrm|mathbf|mathsf|mathit|mathbb|boldsymbol|operatorname|f?boxed|fbox)\s*(?=\{)"
)
_TRIMMINGS = re.compile(
    r"\\[()\[\],;:! ]|\\(?:quad|qquad|displaystyle|left|right)(?![A-Za-z])|[$*`\"]|(?<!\w)'|'(?!\w)|~"
)
_OPTION = re.compile(r"(?:the\s+)?(?:options?|choices?|letter)\s+(?=[(\[{]?[A-J]\b)", re.IGNORECASE)
_LETTER = re.compile(r"[(\[{]?\s*([A-Ja-j])\s*[)\]}]?\s*[.:,;!]?")
_FIRST = re.compile(r"(?:[(\[{]\s*([A-Ja-j])\s*[)\]}]|([A-J])(?![A-Za-z0-9'_^]))\s*")
_LETTER_ALONE = re.compile(r"(?<![A-Za-z0-9'_\\^])[A-J](?![A-Za-z0-9'_^])")
_BEHIND = re.compile(r"([^()]*?)\s*\(([A-J])\)\s*\.?")
_MARK = re.compile(r"[).:,;\-\u2013\u2014(]+\s*")
_CLAUSE = re.compile(
    r"(?:,?\s*\bnot\s+\(?[A-J]\b|,?\s*\b(?:because|since|as|while|whereas|given|due|rather than|instead of|and not)\b)",
    re.IGNORECASE,
)
_SENTENCE = re.compile(r"[.!?]\s+(?=[A-Z][a-z]|I\s)")


def choose(response: str, choices: Sequence[str]) -> tuple[int | None, str | None]:
    r"""The place of the option that a response chooses, and the text that says so. (None, None): it says nothing.

    Statements are boxes and what follows `Answer:` or `answer is`. The last one that names an option counts. One that
    names several chooses none. One that names none, as `\boxed{CO_2}`, does not hide an earlier one.
    """
    unread: str | None = None
    for text in reversed(statements(response, choices)):
        place = chosen(text, choices)
        if place is not None:
            return place, text
        unread = text if unread is None else unread
        if len(letters_in(text)) > 1:
            break
    return None, unread


def statements(response: str, choices: Sequence[str] = ()) -> list[str]:
    """What a response states as its answer, in order. A denial is none, unless its words are an option's text."""
    found: list[tuple[int, str]] = [(box.start, box.content) for box in boxes(response)]
    starts = list(_STATED.finditer(response))
    for match, following in zip(starts, [*starts[1:], None], strict=False):
        stop = following.start() if following else len(response)
        line = response[match.end() : min(stop, match.end() + MAX_ANSWER)].partition("\n")[0]
        if not line.strip(" *") or line.lstrip(" *$").startswith(("\\boxed", "\\fbox")):
            continue
        if not _DENIED.match(line) or _with_text(bare(line), choices) is not None:
            found.append((match.start(), line))
    return [text for _, text in sorted(found, key=lambda each: each[0])][-MAX_STATEMENTS:]


def chosen(answer: str, choices: Sequence[str]) -> int | None:
    """Which option `answer` means: a letter (`B`, `(b)`, `Option B.`), an option's text, or both if they agree.

    What explains the letter may follow it: `B because ...`. A second letter chooses nothing.
    """
    text = _OPTION.sub("", bare(answer[:MAX_ANSWER]), count=1).strip()
    letter = _LETTER.fullmatch(text)  # a letter wins over an option's text
    if letter:
        return _place(letter[1], choices)
    by_text = _with_text(text, choices)
    behind = _BEHIND.fullmatch(text)
    if by_text is None and behind:  # `Carbon dioxide (B)`
        by_text = _with_text(behind[1], choices)
        return by_text if by_text is not None and by_text == _place(behind[2], choices) else None
    first = _FIRST.match(text)
    if by_text is not None or first is None:
        return by_text
    by_letter = _place(first[1] or first[2], choices)
    rest = text[first.end() :]
    if by_letter is None or (first[2] and not _may_follow(rest, first[2])):
        return None
    return by_letter if _agrees(_MARK.sub("", rest, count=1), by_letter, choices) else None


def letters_in(text: str) -> set[str]:
    """The letters of options that stand alone in a text."""
    return set(_LETTER_ALONE.findall(bare(text[:MAX_ANSWER])))


def same_text(text: str) -> str:
    """`text` with single blanks and without a full stop at the end, as neither distinguishes options."""
    return " ".join(text.split()).rstrip(".").rstrip()


def bare(text: str) -> str:
    r"""`text` without fonts, formula delimiters, stars, quotes and braces: `\textbf{(B)}` is `(B)`."""
    text = _FONT.sub("", text)
    text = _TRIMMINGS.sub(" ", text)
    text = re.sub(r"(?<![\\^_}])\{([^{}\\^_]*)\}(?!\s*\{)", r" \1 ", text)
    return re.sub(r"\s+", " ", re.sub(r"\s+(?=[.,;:)\]])", "", text)).strip()


def _may_follow(rest: str, letter: str) -> bool:
    """False where the letter is a word: `A car`, `I think`."""
    return letter not in "AI" or not rest or bool(_MARK.match(rest) or _CLAUSE.match(rest) or not rest[0].isalpha())


def _agrees(rest: str, place: int, choices: Sequence[str]) -> bool:
    """False where what follows a letter is another option's text, or names another letter."""
    first = _SENTENCE.split(rest, maxsplit=1)[0]
    for text in (rest, first, first.rstrip(") ")):
        other = _with_text(text, choices)
        if other is not None:
            return same_text(choices[other]) == same_text(choices[place])
    clause = _CLAUSE.search(first)
    said = first[: clause.start()] if clause else first
    return not set(_LETTER_ALONE.findall(said)) - {LETTERS[place]}


def _place(letter: str, choices: Sequence[str]) -> int | None:
    place = LETTERS.index(letter.upper())
    return place if place < len(choices) else None


def _with_text(text: str, choices: Sequence[str]) -> int | None:
    target, texts = same_text(text), [same_text(bare(choice)) for choice in choices]
    if not target:
        return None
    if target in texts:  # `rr` and `RR` are two options, so the exact text goes first
        return texts.index(target)
    casefolds = [choice.casefold() for choice in texts]
    matches = {texts[i] for i, choice in enumerate(casefolds) if choice == target.casefold()}
    return casefolds.index(target.casefold()) if len(matches) == 1 else None
