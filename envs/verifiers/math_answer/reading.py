r"""What an answer says: one value, a list or a bracketed group of values, each split into name, number and unit."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from fractions import Fraction

from .normalise import normalised
from .numerals import number, side_by_side
from .splitting import bracketed, is_balanced, matrix_rows, parts_at, split_list
from .units import MULTIPLES, NO_UNITS, split_unit


@dataclass(frozen=True, slots=True)
class Value:
    """One value. `text` is all of it, the rest says how it is read."""

    text: str
    value: str  # without name, label and unit
    unit: str = ""
    before: str = ""  # words in front: `January 5`
    names: tuple[str, ...] = ()  # what stands left of `=`, in order
    number: Fraction | None = None
    decimal: bool = False  # the number is known to its digits only
    base: str = ""
    digits: str = ""  # of a number with a base
    relation: bool = False  # an inequality, not a value
    words: str = ""  # of an answer that is only words
    whole: bool = True  # False: it cannot be read, and is compared as text
    compound: bool = False  # a part of `6 feet 2 inches`: the unit belongs to it


@dataclass(frozen=True, slots=True)
class Group:
    """Several values: in brackets, or in a list whose order does not count (`kind` is "list")."""

    text: str
    kind: str
    members: tuple[Value | Group, ...]


Answer = Value | Group

_RELATION = re.compile(r"\\(?:le|ge|ne|ll|gg|prec|succ|subset|subseteq|equiv|sim|mid|leqq|geqq)(?![A-Za-z])|[<>]")
_WORD_IN_TEXT = re.compile(r"\\text\s*\{([^{}]*)\}")
_LABEL = re.compile(
    r"\s*(?:\\text\s*\{[^{}]*?(?::|\b(?:is|are|equals|was|be))\s*\}\s*:?|"
    r"[A-Za-z][A-Za-z ]*?(?::|\b(?:is|are|equals)\b)|"
    r"\\text\s*\{[^{}:]*\}\s*:)\s*(?=\S)"
)
_BEFORE = re.compile(r"((?:\\text\s*\{[^{}\d]*\}\s*|[A-Za-z]{3,}\.?\s+)+)(?=[-\d\\.(])")
_MINUS = re.compile(r"(?:\\text\s*\{\s*(?:negative|minus)\s*\}|(?:negative|minus)\s)\s*(?=[\d\\.])", re.IGNORECASE)
_BASED = re.compile(
    r"\(?\s*(\d[\dA-F]*|[A-F][\dA-F]*)\s*\)?\s*(?:_\s*\{?\s*\(?\s*(?:\\text\s*\{\s*(?:base\s*)?)?\s*(\d+|[a-z]+)\s*\}?\s*\)?\s*\}?"
    r"|\\text\s*\{\s*(?:in\s+)?base\s*\}?\s*(\d+)\s*\}?)"
)
_BASES = {"two": "2", "three": "3", "four": "4", "five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9",
          "ten": "10", "eleven": "11", "twelve": "12", "sixteen": "16"}  # fmt: skip
_CLOCK = re.compile(r"(\d{1,2}:\d{2}(?::\d{2})?|\d{1,2}(?=\s*[ap]\.))\s*(?:([ap])\.?\s*m\b\.?)?", re.IGNORECASE)
NUMBER_IN_BASE = re.compile(r"(?<![\^_A-Za-z\d.])\d+\s*_")  # within a formula, which nobody computes
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}|\d{1,2}/\d{1,2}/\d{4}")
_LETTERS = re.compile(r"(?:\\text\s*\{[^{}]*\}|[A-Za-z.,'\-\s():])+")
_COMPOUND = re.compile(r"(?<=[A-Za-z}'\"])\s*(?=\d)")
_PRIMES = {"'": "arcmin", "''": "arcsec", '"': "arcsec"}
_APPROX = re.compile(r"\\approx(?![A-Za-z])")
_IN = re.compile(
    r"(?:[A-Za-z](?:_\{?\w+\}?)?(?:\s*,\s*[A-Za-z])*|\([a-z](?:\s*,\s*[a-z])*\))\s*\\in(?![A-Za-z])\s*(.+)", re.DOTALL
)
_NO_NAME = re.compile(r"\\(?:frac|sqrt|cdot|times)(?![A-Za-z])|[-+*^]|(?<![_{A-Za-z])\d")


def read(text: str, *, thousands: bool = True) -> Answer:
    """What `text`, a boxed or stated answer, says.

    Args:
        thousands: whether `100,200` is one number. False: two, as where the other side is a list.
    """
    return _list(normalised(text), thousands)


def _list(text: str, thousands: bool) -> Answer:
    contained = _IN.fullmatch(text)
    text = contained[1].strip() if contained else text
    cases = parts_at(text, ";")
    if len(cases) > 1 and all(len(parts_at(case, ",")) > 1 for case in cases):  # `p=5,q=2; p=7,q=2`
        return Group(
            text,
            "list",
            tuple(Group(case, "()", tuple(map(_member, split_list(case, thousands=False)))) for case in cases),
        )
    parts = [part for whole in split_list(text, thousands=thousands) for part in _signs(whole)]
    if len(parts) > 1:
        return Group(text, "list", tuple(_flat(_member(part) for part in parts)))
    return _member(parts[0]) if parts else Value(text, text, whole=False)


def _flat(members) -> list[Answer]:
    return [inner for member in members for inner in (member.members if _is_list(member) else (member,))]


def _is_list(answer: Answer) -> bool:
    return isinstance(answer, Group) and answer.kind == "list"


def _signs(text: str) -> list[str]:
    r"""`a \pm b` as two values."""
    if text.count("\\pm") != 1 or "\\mp" in text or bracketed(text):
        return [text]
    return (
        [text.replace("\\pm", sign) for sign in ("+", "-")]
        if not text.lstrip().startswith("\\pm")
        else [text.replace("\\pm", sign).strip() for sign in ("", "-")]
    )


def _member(text: str) -> Answer:
    group = bracketed(text)
    if group:
        kind, inner = group
        parts = split_list(inner, thousands=False)
        if kind == "{}":
            return Group(text, "list", tuple(_flat(_member(part) for piece in parts for part in _signs(piece))))
        if len(parts) > 1:
            return Group(text, kind, tuple(_member(part) for part in parts))
        if kind == "()" and len(parts) == 1:
            return _renamed(_member(parts[0]), text)
    rows = matrix_rows(text)
    if rows:
        kind = "column" if all(len(row) == 1 for row in rows) else "row" if len(rows) == 1 else f"{len(rows)} rows"
        return Group(text, kind, tuple(_member(cell) for row in rows for cell in row))
    pieces = _COMPOUND.split(text)
    if len(pieces) > 1:
        quantities = [_quantity(piece) for piece in pieces]
        if all(quantity is not None for quantity in quantities):
            return Group(text, "list", _compound([quantity for quantity in quantities if quantity is not None]))
    return _equation(text)


def _renamed(answer: Answer, text: str) -> Answer:
    return replace(answer, text=text)


def _quantity(text: str) -> Value | None:
    """A number with a unit, as a part of a compound quantity."""
    text = text.strip()
    for prime in ("''", '"', "'"):
        if text.endswith(prime) and (known := number(text.removesuffix(prime))):
            return Value(
                text, text.removesuffix(prime), _PRIMES[prime], number=known[0], decimal=known[1], compound=True
            )
    value, unit = split_unit(text)
    known = number(value)
    if known is None or not unit:
        return None
    return Value(text, value, unit, number=known[0], decimal=known[1], compound=True)


def _compound(quantities: list[Value]) -> tuple[Value, ...]:
    """Minutes and seconds of an angle are other units than those of an hour; without degrees `6' 2''` is a length."""
    angle = quantities[0].unit == "deg"
    names = {"min": "arcmin", "s": "arcsec"} if angle else {"arcmin": "ft", "arcsec": "inch"}
    return tuple(replace(quantity, unit=names.get(quantity.unit, quantity.unit)) for quantity in quantities)


def _equation(text: str) -> Answer:
    sides = [side.strip() for side in parts_at(text, "=")]
    if len(sides) < 2 or not all(sides):
        return _approximated(text)
    if len(sides) == 2 and is_name(sides[1]) and not is_name(sides[0]):
        sides.reverse()
    last = _list(sides[-1], True) if bracketed(sides[-1]) else _approximated(sides[-1])
    if isinstance(last, Group):
        return replace(last, text=text) if is_name(sides[0]) else Value(text, text)
    return replace(last, text=text, names=tuple(sides[:-1]), words="")


def is_name(text: str) -> bool:
    r"""True for what names a value: `x`, `f(x)`, `AB`, `\max f`, `\text{Total}`; not for an expression or a number."""
    ratio = re.sub(r"\\frac\s*\{([^{}\d]*)\}\s*\{([^{}\d]*)\}", r"\1\2", _WORD_IN_TEXT.sub("a", text))
    outside = re.sub(r"[({].*?[)}]", "", ratio)
    return (bool(re.search("[A-Za-z]", outside)) and _NO_NAME.search(outside) is None) or bool(
        re.fullmatch(r"\([a-zA-Z, ]+\)", text)
    )


def _approximated(text: str) -> Value:
    sides = _APPROX.split(text)
    if len(sides) == 2 and sides[1].strip():
        left, right = sides[0].strip(), sides[1].strip()
        return replace(_single(right if not left or is_name(left) else left), text=text)
    return _single(text)


def _single(text: str) -> Value:
    """One value without brackets around it."""
    text = text.strip()
    label = _LABEL.match(text)
    body = text[label.end() :] if label else text
    body = _MINUS.sub("-", body)
    if _RELATION.search(_WORD_IN_TEXT.sub("", body)):
        return Value(text, body, relation=True)
    if words := only_words(body):
        return Value(text, body, words=words)
    if _DATE.fullmatch(body):
        return Value(text, body, whole=False)
    clock = _CLOCK.fullmatch(_WORD_IN_TEXT.sub(r" \1 ", body).strip())
    if clock:
        return Value(text, clock[1].lstrip("0"), {"a": "am", "p": "pm"}.get((clock[2] or "").lower(), ""))
    before, body = _before(body)
    based = _based(text, body)
    return based or _measured(text, before, body)


def _measured(text: str, before: str, body: str) -> Value:
    value, unit = split_unit(body)
    factor, unit = _multiple(unit)
    known = number(value)
    if known is not None:
        return Value(text, value, unit, before, number=known[0] * factor, decimal=known[1])
    if factor != 1:
        value = f"{factor} \\cdot ({value})"
    readable = (
        is_balanced(value) and not side_by_side(value) and "\\text" not in value and not NUMBER_IN_BASE.search(value)
    )
    return Value(text, value, unit, before, whole=readable)


def _multiple(unit: str) -> tuple[int, str]:
    words = unit.split()
    factor = 1
    while words and words[0].rstrip("s") in MULTIPLES:
        factor *= MULTIPLES[words.pop(0).rstrip("s")]
    return factor, " ".join(words)


def _before(body: str) -> tuple[str, str]:
    match = _BEFORE.match(body)
    words = only_words(match[1]) if match else ""
    if match is None or not words or any(word in NO_UNITS for word in words.split()):
        return "", body
    return words, body[match.end() :]


def _based(text: str, body: str) -> Value | None:
    match = _BASED.fullmatch(body.strip())
    if match is None:
        return None
    base = _BASES.get(match[2] or match[3], match[2] or match[3])
    if not base.isdigit() or not 2 <= int(base) <= 36 or any(int(digit, 36) >= int(base) for digit in match[1]):
        return None
    return Value(text, body, digits=match[1].lstrip("0") or "0", base=base)


def only_words(text: str) -> str:
    """The words of a text that has nothing else, in lower case and without articles, else "". A letter alone stays."""
    if not _LETTERS.fullmatch(text) or not re.search("[A-Za-z]", text):
        return ""
    bare = _WORD_IN_TEXT.sub("", text)
    plain = re.sub(r"[^A-Za-z]+", " ", _WORD_IN_TEXT.sub(r" \1 ", text)).strip()
    if len(plain) == 1:
        return plain
    if re.search(r"(?<![A-Za-z])[A-Za-z](?![A-Za-z])", bare) and "(" in bare:
        return ""  # `f(x)`
    words = plain.lower().split()
    return " ".join(word for word in words if word not in ("a", "an", "the")) or " ".join(words)
