"""A calculator for tool calls: arithmetic on exact numbers, with bounds on time and memory for any expression."""

from __future__ import annotations

import ast
import math
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

MAX_CHARACTERS = 500
MAX_NODES = 200
MAX_BITS = 4096  # of an integer or of a fraction's parts, at every step
MAX_DEPTH = 50
MAX_DECIMALS = 100

Number = int | Fraction | float

_BINARY: dict[type[ast.operator], Callable[..., Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_INTEGER_FUNCTIONS: dict[str, Callable[..., int]] = {"gcd": math.gcd, "lcm": math.lcm}
_ANY: dict[str, Callable[..., Any]] = {"abs": abs, "min": min, "max": max, "floor": math.floor, "ceil": math.ceil}
_REAL: dict[str, Callable[[float], float]] = {
    "sin": math.sin, "cos": math.cos, "tan": math.tan, "exp": math.exp, "log": math.log, "log2": math.log2,
    "log10": math.log10, "atan": math.atan, "asin": math.asin, "acos": math.acos,
}  # fmt: skip
# A digit before a letter that is no exponent, as in `1if`, is refused too: Python's parser warns of it on stderr.
_FOREIGN = re.compile(r"[^0-9A-Za-z_.,()+\-*/%^\s]|[0-9](?![eE][+-]?[0-9])[A-Za-z_]|[^\x00-\x7f]")
_CONSTANTS = {"pi": math.pi, "e": math.e}


def calculate(expression: str) -> str:
    """The value of an arithmetic expression: an integer, a fraction `7/3`, or a decimal of 12 digits.

    Python's operators `+ - * / // % **` (and `^` for the power), `sqrt`, `factorial`, `comb`, `perm`, `gcd`, `lcm`,
    `abs`, `min`, `max`, `floor`, `ceil`, `round`, `sin` and its like, `exp`, `log`, `log2`, `log10`, `pi`, `e`.
    Whole numbers and fractions stay exact. Nothing else of Python can be reached: names, attributes, strings and loops
    are refused. Every step whose result would have more than 4096 bits is refused before it is computed.

    Raises:
        ValueError: with a reason to show to the model.
    """
    if len(expression) > MAX_CHARACTERS:
        raise ValueError(f"the expression is longer than {MAX_CHARACTERS} characters")
    if (foreign := _FOREIGN.search(expression)) is not None:
        raise ValueError(f"{foreign[0]!r} is not arithmetic")
    try:
        tree = ast.parse(expression.strip().replace("^", "**"), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError) as failure:
        raise ValueError("this is not an arithmetic expression") from failure
    if sum(1 for _ in ast.walk(tree)) > MAX_NODES:
        raise ValueError(f"the expression has more than {MAX_NODES} parts")
    try:
        return _written(_value(tree.body, 0))
    except ZeroDivisionError as failure:
        raise ValueError("division by zero") from failure
    except (OverflowError, TypeError, RecursionError) as failure:
        raise ValueError(f"it cannot be computed: {failure}") from failure


def _value(node: ast.expr, depth: int) -> Number:
    if depth > MAX_DEPTH:
        raise ValueError("the expression is nested too deeply")
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            # From the text, so that 0.1 is exactly 1/10 and not its nearest float.
            return _bounded(Fraction(ast.unparse(node)) if isinstance(number, float) else number)
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
            value = _value(operand, depth + 1)
            return -value if isinstance(sign, ast.USub) else value
        case ast.BinOp(left=left, op=op, right=right):
            return _bounded(_binary(op, _value(left, depth + 1), _value(right, depth + 1)))
        case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]) if arguments:
            return _bounded(_call(name, [_value(argument, depth + 1) for argument in arguments]))
    raise ValueError(f"{ast.unparse(node)[:40]!r} is not arithmetic")


def _binary(op: ast.operator, left: Number, right: Number) -> Number:
    if isinstance(op, ast.Pow):
        return _power(left, right)
    if isinstance(op, ast.Div):
        return left / right if isinstance(left, float) or isinstance(right, float) else Fraction(left) / right
    if type(op) not in _BINARY:
        raise ValueError("only + - * / // % and ** are known")
    return _BINARY[type(op)](left, right)


def _power(base: Number, exponent: Number) -> Number:
    if isinstance(exponent, Fraction) and exponent.denominator == 1:
        exponent = exponent.numerator
    if isinstance(exponent, int) and not isinstance(base, float):
        # The bits of the result, estimated before the power is computed.
        if abs(exponent) * max(_bits(base), 1) > MAX_BITS and base not in (0, 1, -1):
            raise ValueError("the power is too large")
        return Fraction(base) ** exponent
    # A negative base with a fractional exponent gives a complex number.
    result = float(base) ** float(exponent)
    if isinstance(result, complex):
        raise ValueError("the power is not a real number")
    return result


def _call(name: str, values: list[Number]) -> Number:
    if name in _ANY:
        return _ANY[name](*values)
    if name == "round":
        return _rounded(values[0], _whole(name, values[1:]))
    if name == "sqrt" and len(values) == 1:
        return _root(values[0])
    if name in _REAL and len(values) == 1:
        return _REAL[name](float(values[0]))
    whole = _whole(name, values)
    if name in _INTEGER_FUNCTIONS:
        return _INTEGER_FUNCTIONS[name](*whole)
    if name == "factorial" and len(whole) == 1 and 0 <= whole[0] <= 500:
        return math.factorial(whole[0])
    if name in ("comb", "perm") and len(whole) == 2 and 0 <= whole[0] <= 500 and whole[1] >= 0:
        return (math.comb if name == "comb" else math.perm)(*whole)
    raise ValueError(f"{name} is not known for these arguments")


def _rounded(value: Number, decimals: list[int]) -> Number:
    if any(abs(count) > MAX_DECIMALS for count in decimals):
        raise ValueError(f"round takes at most {MAX_DECIMALS} decimals")
    return round(Fraction(value), *decimals)


def _root(value: Number) -> Number:
    if value < 0:
        raise ValueError("the root of a negative number is not real")
    if not isinstance(value, float):
        exact = Fraction(value)  # the root of a square fraction is exact: sqrt(9/4) is 3/2
        root = Fraction(math.isqrt(exact.numerator), math.isqrt(exact.denominator))
        if root * root == exact:
            return root
    return math.sqrt(value)


def _whole(name: str, values: list[Number]) -> list[int]:
    if any(isinstance(value, float) or Fraction(value).denominator != 1 for value in values):
        raise ValueError(f"{name} takes whole numbers")
    return [int(value) for value in values]


def _bits(value: int | Fraction) -> int:
    return max(value.numerator.bit_length(), value.denominator.bit_length())


def _bounded(value: Number) -> Number:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError("the result is not finite")
    elif _bits(value) > MAX_BITS:
        raise ValueError("the number is too large")
    return value


def _written(value: Number) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    return str(value)
