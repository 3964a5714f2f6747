r"""Where the answer stands in a response: the last box, else what is stated, else the last formula or number."""

from __future__ import annotations

import itertools
import re

from .boxes import boxes
from .characters import as_latex

MAX_STATED = 1000  # characters of a response that are read without a box
MAX_STATEMENTS = 20  # from the end of a response
MIN_PROSE = 15  # words that make a gold answer a worked solution
MAX_ANSWER = 2000  # characters of an answer

# What may stand between boxes that are one answer: signs and blanks, or a part of one sentence with a comma, `and` or
# `or` in it (math-verify's 70 characters), as in `\boxed{3} apples and \boxed{4} pears`.
_SIGNS = re.compile(r"(?:\\\\|\\[()\[\]]|[\s,;$~*+&|/-]|\\text\s*\{\s*,?\s*\}|\\$)*")
_JOINT = re.compile(r"(?=.*(?:[,;]|\b(?:and|or)\b))[^.?!:]{0,70}", re.DOTALL)
_NO_JOINT = re.compile(
    r"\b(?:but|not|no|wrong|thought|instead|rather|so|thus|hence|therefore|which|gives|answer|final|wait|maybe|check"
    r"|actually|because|since)\b",
    re.IGNORECASE,
)
_STATED = re.compile(
    r"(?:\b(?:answers?)\b[^\n.:=$]{0,80}?(?:\b(?:is|are|be)\b\s*:?|[:=])|^\s*\#{4}|<answer>)[ \t*_]*",
    re.IGNORECASE | re.MULTILINE,
)
_FORMULA = re.compile(
    r"\$\$(?P<display>(?:[^$]|\\\$)+)\$\$|(?<!\\)\$(?P<inline>(?:\\.|[^$\\\n])+)\$|\\\[(?P<bracket>.+?)\\\]"
    r"|\\\((?P<paren>.+?)\\\)",
    re.DOTALL,
)
_BETWEEN = re.compile(r"[\s,;]*(?:(?:and|or)\s+(?:(?:also|maybe|perhaps|possibly|even)\s+)?)?[\s]*")
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_COMMAND = re.compile(r"\\(?:text|mathrm|operatorname|mbox)\s*\{[^{}]*\}|\\[A-Za-z]+")
_MONEY = re.compile(r"(?<![\\$\w])\\?\$(?=\d)")
_NUMBER = re.compile(
    r"(?<![\w.,\\])[-+]?(?:\d{1,3}(?:[, ]\d{3})+(?!\d)|\d+)?(?:\.?\d+)?(?:[eE][-+]?\d+)?(?:(?:\s+\d+)?\s*/\s*\d+)?"
    r"(?:\s*(?:[-+*/^]|\*\*)\s*\d+(?:\.\d+)?)*(?:\s?\\?%)?"
)
_END = re.compile(r"(?<=[^\s])[.!?](?=\s|$|\*)|\n|</answer>|\s(?:I hope)\b")
_CLAUSE = re.compile(
    r",?\s*\b(?:because|since|as|so|where|which|when|while|but|not|rather|instead|for|if|therefore|hence)\b|\s\((?=[A-Za-z])|\s[-\u2013\u2014]+\s(?=[A-Za-z])"
)
_VERB = re.compile(r"\b(?:is|are|equals)\b\s*:?")
_DENIED = re.compile(r"\W*(?:not|n't|never|neither)\b", re.IGNORECASE)


def answer_in(text: str, *, require_box: bool = False) -> str | None:
    """The text of a response's answer, or None without one."""
    boxed = _boxed(text)
    if boxed is not None:
        return boxed[:MAX_ANSWER]
    if require_box:
        return None
    stripped = text.strip()
    if stripped and "####" not in stripped and is_bare_formula(stripped):
        return stripped
    text = as_latex(text)
    stated = list(_STATED.finditer(text))[-MAX_STATEMENTS:]
    for match in reversed(stated):
        answer = _stated(text[match.end() : match.end() + MAX_STATED])
        if answer is not None:
            return answer
    if stated:
        return None
    return _last(text[-MAX_STATED:])


def gold_answer_in(text: str) -> str:
    """The answer that a gold text holds: its last box, else all of it."""
    boxed = _boxed(text)
    if boxed is None and is_prose(text):
        boxed = answer_in(text)
    return text if boxed is None else boxed


def is_prose(text: str) -> bool:
    """True for a worked solution, False for an answer with a few words."""
    return len(_PROSE.findall(_COMMAND.sub(" ", text))) >= MIN_PROSE


def _boxed(text: str) -> str | None:
    found = [box for box in boxes(text) if box.content.strip(" $")]
    if not found:
        return None
    contents = [found[-1].content]
    for earlier, later in zip(reversed(found[:-1]), reversed(found), strict=False):
        if not _joined(text[earlier.end : later.start]):
            break
        if earlier.content not in contents:
            contents.insert(0, earlier.content)
    return ", ".join(contents)


def _joined(between: str) -> bool:
    between = re.sub(r"\\(?:quad|qquad|[,;:! ])", " ", between)
    return bool(_SIGNS.fullmatch(between) or (_JOINT.fullmatch(between) and not _NO_JOINT.search(between)))


def _stated(text: str) -> str | None:
    """The answer at the beginning of `text`, up to the end of its sentence."""
    text = text.lstrip(" \t\n*_#")
    if _DENIED.match(text):
        return None
    text = _MONEY.sub(r"\\usd ", text) if _is_money(text) else text
    formulas = _formulas(text)
    masked = text
    for formula in formulas:  # so that words are looked for in prose alone
        masked = f"{masked[: formula.start()]}{'$' * len(formula[0])}{masked[formula.end() :]}"
    end = _END.search(masked)
    stop = end.start() if end else len(text)
    clause = _CLAUSE.search(masked, 1, stop)
    stop = clause.start() if clause else stop
    start = max((verb.end() for verb in _VERB.finditer(masked, 0, stop)), default=0)
    if start and _DENIED.match(text[start:stop]):
        return None
    inside = [formula for formula in formulas if start <= formula.start() < stop]
    if inside and not re.search(r"\d", text[start : inside[0].start()]):
        return _run(text, inside)
    answer = text[start:stop].strip(" *_\t:")
    if not answer and end is not None and end.end() < len(text):
        return _stated(text[end.end() :])
    return answer or None


def _last(text: str) -> str | None:
    """The last formula or number, with those that are listed with it."""
    text = _MONEY.sub(r"\\usd ", text) if _is_money(text) else text
    formulas = _formulas(text)
    numbers = [match for match in _NUMBER.finditer(text.replace("\\usd ", "     ")) if match[0].strip(" +-")]
    later = numbers and formulas and _END.search(text, formulas[-1].end(), max(numbers[-1].start(), formulas[-1].end()))
    if formulas and not later:
        first = len(formulas) - 1
        while first and _BETWEEN.fullmatch(text[formulas[first - 1].end() : formulas[first].start()]):
            first -= 1
        return _run(text, formulas[first:])
    if not numbers:
        return None
    first = len(numbers) - 1
    while first and _BETWEEN.fullmatch(text[numbers[first - 1].end() : numbers[first].start()]):
        first -= 1
    return text[numbers[first].start() : numbers[-1].end()].strip()


def _run(text: str, formulas: list[re.Match[str]]) -> str:
    """The first formula and those that follow it in one list."""
    parts = [_content(formulas[0])]
    for before, after in itertools.pairwise(formulas):
        if not _BETWEEN.fullmatch(text[before.end() : after.start()]):
            break
        parts.append(_content(after))
    return ", ".join(parts)


def _formulas(text: str) -> list[re.Match[str]]:
    return [match for match in _FORMULA.finditer(text) if _content(match).strip()]


def _content(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None)


def _is_money(text: str) -> bool:
    """True where `$` cannot enclose formulas: an odd number of them, or words in what they would enclose."""
    line = re.sub(r"\\\$", "", text)
    return line.count("$") % 2 == 1 or any(
        _PROSE.search(_COMMAND.sub(" ", match["inline"] or "")) for match in _FORMULA.finditer(line)
    )


def is_bare_formula(text: str) -> bool:
    r"""True for a formula without delimiters and words: `\sqrt{2}`, not `so x is \sqrt{2}, I think`."""
    if len(text) > MAX_STATED or "\n" in text or _FORMULA.search(text) or "boxed" in text:
        return False
    return _PROSE.search(_COMMAND.sub(" ", text)) is None
