"""`tgpo/Arithmetic-v0`: unlimited arithmetic with worked answers, the task of the demo. Pure string work."""

from __future__ import annotations

import difflib
import hashlib
import operator
import random
from collections.abc import Callable, Sequence

import numpy as np

from .base import Problem, SingleTurnEnv
from .boxed import last_boxed
from .verdict import CORRECT, UNPARSABLE, WRONG, Verdict
from .worked_solutions import worked

OPERATIONS: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "multiply": ("*", operator.mul),
    "add": ("+", operator.add),
    "subtract": ("-", operator.sub),
}
SPLITS = ("train", "test")
TEST_SHARE = 8  # one operand pair in eight is held out
MAX_DRAWS = 10_000


class ArithmeticEnv(SingleTurnEnv):
    r"""Prompts such as `347*6=`; right is a response whose last `\boxed{}` holds exactly the answer.

    Problem i depends on the arguments below and on i alone, and no operand pair is in both splits, whatever the seeds.

    Args:
        operation: `multiply`, `add` or `subtract` (the larger operand first, so that no answer is negative).
        digits: digits of the first and of the second operand. One digit means 2 to 9: 0 and 1 leave
            nothing to do.
        split: `train`, or `test` for the held-out operand pairs.
        seed: which endless sequence of problems the indices address.

    Raises:
        ValueError: for an unknown operation or split, or digits that are not two numbers of 1 to 12.
    """

    def __init__(
        self, *, operation: str = "multiply", digits: Sequence[int] = (3, 1), split: str = "train", seed: int = 0
    ) -> None:
        super().__init__()
        _require(operation, tuple(OPERATIONS), "operation")
        _require(split, SPLITS, "split")
        if len(digits) != 2 or not all(isinstance(count, int) and 1 <= count <= 12 for count in digits):
            raise ValueError(f"digits must be two integers in [1, 12], got {list(digits)}: one for each operand")
        self.operation, self.split, self.seed = operation, split, seed
        self.digits = (digits[0], digits[1])

    def operands(self, index: int) -> tuple[int, int]:
        """The two operands of problem `index`, the first one the larger for `subtract`."""
        draw = random.Random(f"{self.seed}/{index}")
        for _ in range(MAX_DRAWS):
            a, b = (draw.randint(2 if d == 1 else 10 ** (d - 1), 10**d - 1) for d in self.digits)
            if self.operation == "subtract":
                a, b = max(a, b), min(a, b)
            if _held_out(self.operation, a, b) == (self.split == "test"):
                return a, b
        raise ValueError(f"split {self.split!r} has no problem of digits {list(self.digits)}: ask for more digits")

    def answer(self, index: int) -> int:
        """The right number for problem `index`."""
        return OPERATIONS[self.operation][1](*self.operands(index))

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """`347*6=` and `2082`; every prompt of one setting has the same form."""
        a, b = self.operands(index)
        return Problem(f"{a}{OPERATIONS[self.operation][0]}{b}=", str(self.answer(index)))

    def solution(self, index: int, style: str = "long") -> str:
        """A worked response to problem `index`, for supervised traces; see `worked_solutions` for the styles."""
        return worked(style, self.operation, *self.operands(index), self.answer(index))

    def gold_response(self, index: int) -> str:
        """The long worked solution."""
        return self.solution(index)

    def verify(self, problem: Problem, response: str) -> Verdict:
        """Compares strings: `02082` is not `2082`."""
        answer = last_boxed(response)
        if answer is None:
            return Verdict(0.0, UNPARSABLE, detail="no complete \\boxed{} in the response")
        if answer == problem.answer:
            return Verdict(1.0, CORRECT, extracted=answer)
        return Verdict(0.0, WRONG, extracted=answer[:200])


def _held_out(operation: str, a: int, b: int) -> bool:
    """True for one operand pair in `TEST_SHARE`, by hash; 12*34 and 34*12 are the same pair."""
    pair = f"{max(a, b)}{OPERATIONS[operation][0]}{min(a, b)}"
    return hashlib.blake2b(pair.encode(), digest_size=8).digest()[0] % TEST_SHARE == 0


def _require(value: str, allowed: Sequence[str], name: str) -> None:
    if value not in allowed:
        near = difflib.get_close_matches(str(value), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}{hint}")
