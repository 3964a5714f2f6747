r"""Plain numbers: integers, decimals, fractions, mixed numbers, powers of ten and repeating decimals, exactly."""

from __future__ import annotations

import re
from fractions import Fraction

MAX_DIGITS = 400  # of a number that is read here; sympy reads longer ones

_UNSIGNED = r"(?:\d+(?:,\d{3})*(?:\.\d*)?|\.\d+)"
_BRACED = r"\{\s*(-?\s*\d+)\s*\}"
_DECIMAL = re.compile(rf"(-?)\s*({_UNSIGNED})")
_FRACTION = re.compile(rf"(-?)\s*(?:\\frac\s*{_BRACED}\s*{_BRACED}|(\d+)\s*/\s*(\d+))")
_MIXED = re.compile(rf"(-?)\s*(\d+)\s*(?:\\frac\s*{_BRACED}\s*{_BRACED}|(?<=\s)(\d+)\s*/\s*(\d+))")
_POWER = re.compile(rf"(-?)\s*(?:({_UNSIGNED})\s*(?:\\cdot|\\times)\s*)?10\s*\^\s*(?:{_BRACED}|(\d))")
_OVERLINE = re.compile(r"(-?)\s*(\d*)\.(\d*)\\(?:overline|bar|dot)\s*\{\s*(\d+)\s*\}")
_DOTS = re.compile(r"(-?)\s*(\d*)\.(\d+)\s*(?:\.\.\.|\\ldots)")
_PERIOD = re.compile(r"(\d*?)(\d+?)\2+")
_SIDE_BY_SIDE = re.compile(r"(?<![_^\d.])\d[\d.]*\s+(?:\d|\.\d)")


def number(text: str) -> tuple[Fraction, bool] | None:
    r"""The number that all of `text` is, and whether it is a decimal, which is known to its digits only.

    `\frac{a}{b}` and `a/b` after an integer make a mixed number where a < b, and nothing otherwise.
    """
    text = text.strip()
    if not text or len(text) > MAX_DIGITS:
        return None
    if match := _DECIMAL.fullmatch(text):
        return _signed(match[1], Fraction(match[2].replace(",", "").rstrip("."))), "." in match[2].rstrip(".")
    if match := _FRACTION.fullmatch(text):
        over, under = (int((match[i] or match[i + 2]).replace(" ", "")) for i in (2, 3))
        return (_signed(match[1], Fraction(over, under)), False) if under else None
    if match := _MIXED.fullmatch(text):
        over, under = (int((match[i] or match[i + 2]).replace(" ", "")) for i in (3, 4))
        return (_signed(match[1], int(match[2]) + Fraction(over, under)), False) if 0 < over < under else None
    if match := _POWER.fullmatch(text):
        exponent = int((match[3] or match[4]).replace(" ", ""))
        if abs(exponent) > MAX_DIGITS:
            return None
        factor = Fraction((match[2] or "1").replace(",", "").rstrip("."))
        return _signed(match[1], factor * Fraction(10) ** exponent), "." in (match[2] or "") or exponent < 0
    if match := _OVERLINE.fullmatch(text):
        return _signed(match[1], _repeating(match[2], match[3], match[4])), False
    if match := _DOTS.fullmatch(text):
        period = _PERIOD.fullmatch(match[3])
        if period and len(match[3]) - len(period[1]) >= max(3, 2 * len(period[2])):
            return _signed(match[1], _repeating(match[2], period[1], period[2])), False
    return None


def side_by_side(text: str) -> bool:
    """True where two numbers stand next to each other and are no mixed number: `5 6`, `4 10/3`."""
    return _SIDE_BY_SIDE.search(text) is not None


def _repeating(whole: str, fixed: str, period: str) -> Fraction:
    """`0.1\\overline{6}` is 16/90 - 1/90."""
    digits = int((whole or "0") + fixed + period) - int((whole or "0") + fixed)
    return Fraction(digits, (10 ** len(period) - 1) * 10 ** len(fixed))


def _signed(sign: str, value: Fraction) -> Fraction:
    return -value if sign else value
