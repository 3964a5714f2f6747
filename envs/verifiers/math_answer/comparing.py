"""Whether a response's answer is the gold answer."""

from __future__ import annotations

import itertools
import re
from fractions import Fraction
from typing import Any

from .formulas import real_number, same_formula
from .reading import Answer, Group, Value, is_name, read
from .units import canonical, units_agree

MAX_VALUES = 6  # values paired under a tolerance: up to 720 pairings
MAX_MEMBERS = 40  # of a list that is compared in any order

_VECTORS = {"()", "<>", "column", "row"}
_SQUARE = {"<>", "column", "row"}  # brackets of a vector that `[2, 5]` may stand for; `(2, 5)` may be an interval
_DECIMAL_COMMA = re.compile(r"(-?\d+),(\d+)")
_CLOCK = re.compile(r"\d{1,2}:\d{2}(?::\d{2})?")
_LETTERS_BEHIND = re.compile(r"(.*[\d})])\s*([A-Za-z][A-Za-z/^{}\d\s]*)", re.DOTALL)


def same(gold: Answer, response: Answer, settings: dict[str, Any]) -> bool:
    """True where the response says what the gold answer says."""
    if gold.text == response.text:
        return True
    if isinstance(gold, Group) and isinstance(response, Group):
        return _same_groups(gold, response, settings)
    if isinstance(gold, Value) and isinstance(response, Value):
        return _same_values(gold, response, settings)
    comma = _DECIMAL_COMMA.fullmatch(response.text)
    if isinstance(gold, Value) and gold.decimal and comma:  # `1000,99` where the gold answer is 1000.99
        return same(gold, read(f"{comma[1]}.{comma[2]}"), settings)
    if isinstance(gold, Value) and isinstance(response, Group) and response.kind == "list" and not gold.relation:
        return all(same(gold, member, settings) for member in response.members)  # one value, written in several ways
    if isinstance(gold, Group) and gold.kind == "list" and isinstance(response, Value) and "," in response.text:
        split = read(response.text, thousands=False)  # `100,200` where the gold answer is 100 and 200
        return isinstance(split, Group) and _same_groups(gold, split, settings)
    return same_formula(gold.text, response.text, settings)


def within(gold: Answer, response: Answer, tolerance: float | list[float]) -> bool:
    """True where both have equally many real numbers, and a pairing keeps every number within its tolerance."""
    golds, responses = _numbers(gold), _numbers(response)
    limits = tolerance if isinstance(tolerance, list) else [tolerance] * len(golds)
    if len({len(golds), len(limits), len(responses)}) != 1 or not 1 <= len(golds) <= MAX_VALUES:
        return False
    slack = 1e-9  # of rounding: 0.003 is 0.001 from 0.002
    return any(
        all(abs(w - g) <= t * (1 + slack) for w, g, t in zip(golds, order, limits, strict=True))
        for order in itertools.permutations(responses)
    )


def _numbers(answer: Answer) -> list[Any]:
    """The real, finite numbers that an answer consists of; empty for any other answer."""
    found: list[Any] = []
    for value in answer.members if isinstance(answer, Group) else (answer,):
        if isinstance(value, Group):
            return []
        known = float(value.number) if value.number is not None else real_number(value.value)
        if known is None:
            return []
        found.append(known)
    return found


def _same_groups(gold: Group, response: Group, settings: dict[str, Any]) -> bool:
    if gold.kind == "list":
        return response.kind == "list" and _same_in_any_order(gold.members, response.members, settings)
    kinds = {gold.kind, response.kind}
    alike = len(kinds) == 1 or (kinds <= _VECTORS and kinds != {"column", "row"})
    # Brackets may be left out, and the order counts: `1, 3` for (1, 3). The other way round a pair is no list.
    alike = alike or ("[]" in kinds and bool(kinds & _SQUARE)) or (response.kind == "list" and gold.kind in _VECTORS)
    if not alike:
        return False
    pairs = list(zip(gold.members, response.members, strict=False))
    return len(gold.members) == len(response.members) and all(same(g, r, settings) for g, r in pairs)


def _same_in_any_order(golds: tuple[Answer, ...], responses: tuple[Answer, ...], settings: dict[str, Any]) -> bool:
    if max(len(golds), len(responses)) > MAX_MEMBERS:
        return len(golds) == len(responses) and all(
            same(gold, response, settings) for gold, response in zip(golds, responses, strict=True)
        )
    if len(golds) != len(responses):  # the same value may be written twice
        golds, responses = _distinct(golds, settings), _distinct(responses, settings)
    if len(golds) != len(responses):
        return False
    left = list(responses)
    for gold in golds:
        found = next((i for i, response in enumerate(left) if same(gold, response, settings)), None)
        if found is None:
            return False
        del left[found]
    return True


def _distinct(members: tuple[Answer, ...], settings: dict[str, Any]) -> tuple[Answer, ...]:
    kept: list[Answer] = []
    for member in members:
        if not any(same(member, other, settings) for other in kept):
            kept.append(member)
    return tuple(kept)


def _same_values(gold: Value, response: Value, settings: dict[str, Any]) -> bool:
    if gold.words and response.words:
        return gold.words == response.words
    if len(gold.words) > 1 or len(response.words) > 1:
        return False
    if gold.relation or response.relation:
        return gold.relation and response.relation and same_formula(gold.text, response.text, settings)
    if not (gold.whole and response.whole):
        return False
    if gold.names and not is_name(gold.names[0]):  # an equation, not a value
        return bool(response.names) and same_formula(gold.text, response.text, settings)
    if gold.names and response.names and not _same_names(gold, response):
        return same_formula(gold.text, response.text, settings)
    if response.names and not _holds(response, settings):
        return False
    return _same_quantities(gold, response, settings)


def _holds(response: Value, settings: dict[str, Any]) -> bool:
    """False for an equation of numbers that is not true: `6 = 5`."""
    first = response.names[0]
    if response.number == 0 and not is_name(first):  # `x - y = 0` says how x and y are related
        return False
    return any(char.isalpha() for char in re.sub(r"\\[A-Za-z]+", "", first)) or same(
        read(first), read(response.text.rpartition("=")[2]), settings
    )


def _same_names(gold: Value, response: Value) -> bool:
    return re.sub(r"[\s{}]", "", gold.names[0]) == re.sub(r"[\s{}]", "", response.names[0])


def _same_quantities(gold: Value, response: Value, settings: dict[str, Any]) -> bool:
    response = _with_the_units_letters(gold, response)
    if gold.compound != response.compound and (
        (gold.compound and not response.unit) or (response.compound and not gold.unit)
    ):
        return False
    if gold.before and gold.before != response.before:
        return False
    if gold.base or response.base:
        return _same_in_base(gold, response)
    if "%" in (gold.unit, response.unit) and gold.unit != response.unit and not (gold.unit and response.unit):
        return _same_percentage(gold, response, settings)
    if not units_agree(gold.unit, response.unit):
        return False
    if _same_numbers(gold, response, settings):
        return True
    return _same_angle(gold, response, settings)


def _same_numbers(gold: Value, response: Value, settings: dict[str, Any]) -> bool:
    if gold.number is not None and response.number is not None:
        whole = any(value.number.denominator == 1 and not value.decimal for value in (gold, response) if value.number)
        decimal = gold.decimal or response.decimal
        return _same_fractions(gold.number, response.number, decimal=decimal, whole=whole, settings=settings)
    if _CLOCK.fullmatch(gold.value):
        return gold.value == response.value
    return same_formula(gold.value, response.value, settings)


def _same_fractions(
    gold: Fraction, response: Fraction, *, decimal: bool, settings: dict[str, Any], whole: bool = False
) -> bool:
    """Whether two numbers are equal, or with a decimal differ by at most 10^-rounding of the larger.

    Where one is a whole number without a decimal point they may differ by 10^-rounding: 999999.0 is not 1000000.
    """
    if gold == response or not decimal:
        return gold == response
    larger = max(abs(gold), abs(response))
    bound = min(Fraction(1), larger) if whole else larger
    return abs(gold - response) * 10 ** settings.get("rounding", 6) * 1_000_000 <= bound * 1_000_001  # as in `close`


def _same_in_base(gold: Value, response: Value) -> bool:
    """The digits, and the base where both name one."""
    if gold.base and response.base and gold.base != response.base:
        return False
    first, second = (value.digits or value.value.replace(" ", "").lstrip("0") for value in (gold, response))
    return first == second


def _same_percentage(gold: Value, response: Value, settings: dict[str, Any]) -> bool:
    r"""`30\%` is 30 where the other side has no percent sign, and 3/10."""
    percent, plain = (gold, response) if gold.unit == "%" else (response, gold)
    if _same_numbers(percent, plain, settings):
        return True
    if percent.number is not None and plain.number is not None:
        decimal = percent.decimal or plain.decimal
        return _same_fractions(percent.number / 100, plain.number, decimal=decimal, settings=settings)
    return same_formula(f"\\frac{{{percent.value}}}{{100}}", plain.value, settings)


def _same_angle(gold: Value, response: Value, settings: dict[str, Any]) -> bool:
    r"""`60^\circ` is `\pi/3` where one has degrees and the other \pi."""
    degrees, plain = (gold, response) if gold.unit == "deg" else (response, gold)
    if degrees.unit != "deg" or plain.unit or "\\pi" not in plain.value:
        return False
    return same_formula(f"\\frac{{({degrees.value}) \\pi}}{{180}}", plain.value, settings)


def _with_the_units_letters(gold: Value, response: Value) -> Value:
    """`5 m` as 5 metres, where the gold answer is in metres. Elsewhere a letter is a variable."""
    if not gold.unit or response.unit:
        return response
    match = _LETTERS_BEHIND.fullmatch(response.value)
    if match is None or canonical(match[2]) != gold.unit:
        return response
    value = read(match[1])
    return response if isinstance(value, Group) else value
