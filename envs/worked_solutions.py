r"""Worked responses to `tgpo/Arithmetic-v0` problems: one function per style, the box added by `worked`.

A tiny policy learns these styles before reinforcement learning. `short` gives the answer at once. `long` computes it
digit by digit, the least significant first, with the carry written out.
"""

from __future__ import annotations

from collections.abc import Callable


def short(operation: str, a: int, b: int) -> str:
    """The empty text: nothing before the answer."""
    return ""


def long(operation: str, a: int, b: int) -> str:
    """Column by column: `7*6=42,4*6+4=28,3*6+2=20,` for 347*6."""
    return {"add": _add, "subtract": _subtract, "multiply": _multiply}[operation](a, b)


STYLES: dict[str, Callable[[str, int, int], str]] = {"short": short, "long": long}


def worked(style: str, operation: str, a: int, b: int, answer: int) -> str:
    r"""The whole response: the style's work and `\boxed{answer}`.

    Raises:
        ValueError: for an unknown style.
    """
    if style not in STYLES:
        raise ValueError(f"style must be one of {', '.join(STYLES)}, got {style!r}")
    return f"{STYLES[style](operation, a, b)}\\boxed{{{answer}}}"


def _add(a: int, b: int) -> str:
    """`7+6=13,4+1+1=6,` for 47+16: the digits of both, then the carry, even when it is 0."""
    steps, carry = [], 0
    for place, (x, y) in enumerate(_columns(a, b)):
        total = x + y + carry  # of the last column, both digits: they begin the answer
        steps.append(f"{x}+{y}{f'+{carry}' if place else ''}={total},")
        carry = total // 10
    return "".join(steps)


def _subtract(a: int, b: int) -> str:
    """`2-7=-5,4-1-1=2,` for 42-17: a negative column borrows 1 from the next."""
    steps, borrow = [], 0
    for place, (x, y) in enumerate(_columns(a, b)):
        total = x - y - borrow  # the environment puts the larger operand first: the last column never borrows
        steps.append(f"{x}-{y}{f'-{borrow}' if place else ''}={total},")
        borrow = int(total < 0)
    return "".join(steps)


def _multiply(a: int, b: int) -> str:
    """Partial products. Where b has several digits, each ends with `;` and a running sum of them follows."""
    digits = _digits(b)
    if len(digits) == 1:
        return _partial_product(a, b)
    text, total = "", 0
    for place, digit in enumerate(digits):
        partial = a * digit * 10**place
        text += _partial_product(a, digit)[:-1] + ";"  # in place of the last comma
        if place:
            text += f"{total}+{partial}={total + partial},"
        total += partial
    return text


def _partial_product(a: int, digit: int) -> str:
    """`7*6=42,4*6+4=28,3*6+2=20,` for 347*6."""
    steps, carry = [], 0
    for place, x in enumerate(_digits(a)):
        total = x * digit + carry
        steps.append(f"{x}*{digit}{f'+{carry}' if place else ''}={total},")
        carry = total // 10
    return "".join(steps)


def _digits(number: int) -> list[int]:
    """Least significant first."""
    return [int(digit) for digit in reversed(str(number))]


def _columns(a: int, b: int) -> list[tuple[int, int]]:
    width = max(len(str(a)), len(str(b)))
    return list(zip(_digits(a) + [0] * (width - len(str(a))), _digits(b) + [0] * (width - len(str(b))), strict=True))
