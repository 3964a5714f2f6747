r"""Values that are formulas: read by latex2sympy, compared exactly, or relatively where a decimal is among them."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator
from typing import Any

import sympy
from latex2sympy2_extended import latex2sympy
from latex2sympy2_extended.latex2sympy2 import ConversionConfig, NormalizationConfig, normalize_latex
from math_verify import verify
from math_verify.grader import should_treat_as_complex

# Without its SIGALRM time-out (main threads only) the library warns once; the pool's deadline replaces it.
logging.getLogger("math_verify").setLevel(logging.ERROR)

DIGITS = 50  # to which exact numbers that are not rational are compared
SAME_DIGITS = 40
MAX_FORMULA = 2000  # characters
POINTS = 12  # at which formulas with variables are compared
MIN_POINTS = 6  # of them at which both must be real
# what sympy raises where a function has no value at a point
UNDEFINED = (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError)
_SPELLING = NormalizationConfig(
    basic_latex=True, units=False, malformed_operators=True, nits=True, boxed="none", equations=False
)
_CASE = ConversionConfig(lowercase_symbols=False)  # `N` and `n` are two variables
_SAMPLES = [sympy.Rational(p, q) for p, q in ((7, 3), (-5, 2), (11, 7), (3, 8), (-4, 9), (17, 5), (23, 4), (-13, 6))]


@functools.lru_cache(maxsize=2048)  # the responses of a group share their gold answer
def formula(text: str) -> tuple[Any, bool] | None:
    """What latex2sympy makes of all of `text`, with decimals as exact fractions, and whether there were decimals."""
    if len(text) > MAX_FORMULA:
        return None
    try:
        value: Any = latex2sympy(
            normalize_latex(text, _SPELLING),
            is_real=not should_treat_as_complex(text),
            convert_degrees=False,
            normalization_config=None,
            conversion_config=_CASE,
        )
    except Exception:  # of its parser and of sympy: of any type
        return None
    floats = value.atoms(sympy.Float) if hasattr(value, "atoms") else ()
    exact = value.xreplace({each: sympy.Rational(str(each)) for each in floats}) if floats else value
    return exact, bool(floats)


def same_formula(gold: str, response: str, settings: dict[str, Any]) -> bool:
    """True where both are formulas of one value.

    Numbers are compared exactly, and relatively (`rounding` digits) where one has a decimal. Formulas with variables
    are equal where sympy says so, or where they agree at every point at which both are real.
    """
    if gold.count("'") != response.count("'"):  # latex2sympy drops the prime of a derivative
        return False
    first, second = formula(gold), formula(response)
    if first is None or second is None:
        return False
    return _same(first[0], second[0], decimal=first[1] or second[1], settings=settings)


def real_number(text: str) -> Any | None:
    """The value of a formula that is a real, finite number."""
    parsed = formula(text)
    if parsed is None or not getattr(parsed[0], "is_number", False):
        return None
    value = parsed[0].evalf(15)
    return value if value.is_real and value.is_finite else None


def close(gold: Any, response: Any, digits: int) -> bool:
    """True where two numbers differ by at most 10^-digits of the larger."""
    slack = sympy.Rational(1000001, 1000000)  # 0.142857 is just 10^-6 of 1/7 away from it
    bound = sympy.Rational(1, 10**digits) * slack * max(abs(gold), abs(response))
    return bool(abs(gold - response) <= bound)


def _same(gold: Any, response: Any, *, decimal: bool, settings: dict[str, Any]) -> bool:
    if _is_number(gold) and _is_number(response):
        return _same_number(gold, response, decimal=decimal, settings=settings)
    if isinstance(gold, sympy.Expr) and isinstance(response, sympy.Expr):
        return _same_expression(gold, response)
    options: dict[str, Any] = {"float_rounding": settings.get("rounding", 6), "timeout_seconds": None}
    return verify(gold, response, allow_set_relation_comp=bool(settings.get("set_relations")), **options)


def _is_number(value: Any) -> bool:
    return isinstance(value, sympy.Expr) and bool(value.is_number)


def _same_number(gold: Any, response: Any, *, decimal: bool, settings: dict[str, Any]) -> bool:
    gold, response = gold.doit(), response.doit()
    if gold == response:
        return True
    if gold.is_Rational and response.is_Rational and not decimal:
        return False
    one, other = (value if value.is_Rational else value.evalf(DIGITS) for value in (gold, response))
    if not (one.is_finite and other.is_finite):
        return False
    if one == 0 or other == 0:
        return bool(sympy.simplify(gold - response) == 0)
    return close(one, other, settings.get("rounding", 6) if decimal else SAME_DIGITS)


def _same_expression(gold: Any, response: Any) -> bool:
    if gold == response:
        return True
    at_points = _same_at_points(gold, response)
    if at_points is not None:
        return at_points
    difference = sympy.simplify(gold - response)
    return bool(difference == 0) or difference.is_zero is True


def _same_at_points(gold: Any, response: Any) -> bool | None:
    """Whether both agree wherever both are real; None where they are real at too few points."""
    real = 0
    for point in _points(sorted(gold.free_symbols | response.free_symbols, key=str)):
        try:
            one, other = (value.xreplace(point).doit().evalf(30) for value in (gold, response))
        except UNDEFINED:
            continue
        if not (one.is_number and other.is_number):
            return None
        if one.is_real and other.is_real and one.is_finite and other.is_finite:
            real += 1
            if abs(one - other) > sympy.Float("1e-20") * max(abs(one), abs(other), sympy.Float("1e-10")):
                return False
    return True if real >= MIN_POINTS else None


def _points(symbols: list[Any]) -> Iterator[dict[Any, Any]]:
    """Values for the variables: two points of positive ones, then of both signs."""
    for n in range(POINTS):
        values = [
            _SAMPLES[(n * (i + 1) + 3 * i) % len(_SAMPLES)] + sympy.Rational(n + i, 13) for i in range(len(symbols))
        ]
        if n < 4:
            values = [abs(value) for value in values]
        yield dict(zip(symbols, values, strict=True))
