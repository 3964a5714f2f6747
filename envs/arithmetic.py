"""`tgpo/Arithmetic-v0`: unlimited arithmetic with worked answers, the task of the demo. Pure string work."""

from __future__ import annotations

import hashlib
import operator
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from .base import Problem, SingleTurnEnv
from .boxed import last_boxed
from .hints import check_choice
from .options import Options, takes
from .verdict import CORRECT, UNPARSABLE, WRONG, Verdict
from .worked_solutions import worked

OPERATIONS: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "multiply": ("*", operator.mul),
    "add": ("+", operator.add),
    "subtract": ("-", operator.sub),
}
SPLITS = ("train", "test")
TEST_SHARE = 8  # one operand pair in eight is held out
MAX_DRAWS = 10_000  # of operands for one problem, until a pair is of the right split


@dataclass(frozen=True, kw_only=True)
class ArithmeticOptions(Options):
    """Options of `tgpo/Arithmetic-v0`.

    Raises:
        ValueError: for an unknown operation or split, digits that are not two numbers of 1 to 12, or weights that do
            not fit the levels.
    """

    operation: str = "multiply"
    """`multiply`, `add` or `subtract` (the larger operand first, so that no answer is negative)."""
    digits: Sequence[int] = (3, 1)
    """Digits of the first and of the second operand. One digit means 2 to 9, as 0 and 1 leave nothing to do."""
    split: str = "train"
    """`train`, or `test` for the held-out operand pairs."""
    seed: int = 0
    """Which endless sequence of problems the indices address."""
    levels: Sequence[Sequence[int]] | None = None
    """A curriculum: several pairs of digits instead of one, `[[1, 1], [2, 1], [3, 1]]`."""
    level_weights: Sequence[float] | None = None
    """How often each level occurs, in proportion to the other weights. null: all equally often."""
    problems_per_level: int | None = None
    """The levels follow one another as the index grows, each for this many problems and the last without end. null: the
    levels are mixed by weight."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("operation", self.operation, OPERATIONS)
        check_choice("split", self.split, SPLITS)
        _check_levels(len(self.digit_pairs), self.level_weights, self.problems_per_level)

    @property
    def digit_pairs(self) -> list[tuple[int, int]]:
        """Digits of the two operands, for each level."""
        return [_digit_pair(pair) for pair in ([self.digits] if self.levels is None else self.levels)]


class ArithmeticEnv(SingleTurnEnv):
    r"""Prompts such as `347*6=`; right is a response whose last `\boxed{}` holds exactly the answer.

    Problem i depends only on the arguments (`ArithmeticOptions` lists them) and on i. No operand pair is in both
    splits, whatever the seeds.
    """

    @takes(ArithmeticOptions)
    def __init__(self, options: ArithmeticOptions) -> None:
        super().__init__()
        self.options, self.levels = options, options.digit_pairs

    def digits(self, index: int) -> tuple[int, int]:
        """Digits of the two operands of problem `index`."""
        if self.options.problems_per_level is not None:
            return self.levels[min(index // self.options.problems_per_level, len(self.levels) - 1)]
        if len(self.levels) == 1:
            return self.levels[0]
        # A generator of its own, so that the levels do not change which operands a seed draws.
        draw = random.Random(f"level/{self.options.seed}/{index}")
        return draw.choices(self.levels, weights=self.options.level_weights)[0]

    def operands(self, index: int) -> tuple[int, int]:
        """The two operands of problem `index`, the first one the larger for `subtract`."""
        digits, operation = self.digits(index), self.options.operation
        # Random hashes a text with SHA-512: the same in every process, and neighbouring indices share nothing.
        draw = random.Random(f"{self.options.seed}/{index}")
        for _ in range(MAX_DRAWS):
            a, b = (draw.randint(2 if d == 1 else 10 ** (d - 1), 10**d - 1) for d in digits)
            if operation == "subtract":
                a, b = max(a, b), min(a, b)
            if _held_out(operation, a, b) == (self.options.split == "test"):
                return a, b
        raise ValueError(f"split {self.options.split!r} has no problem of digits {list(digits)}: ask for more digits")

    def answer(self, index: int) -> int:
        """The right number for problem `index`."""
        return OPERATIONS[self.options.operation][1](*self.operands(index))

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """`347*6=` and `2082`; every prompt of one setting has the same form."""
        a, b = self.operands(index)
        return Problem(f"{a}{OPERATIONS[self.options.operation][0]}{b}=", str(self.answer(index)))

    def solution(self, index: int, style: str = "long") -> str:
        """A worked response to problem `index`, for supervised traces; see `worked_solutions` for the styles."""
        return worked(style, self.options.operation, *self.operands(index), self.answer(index))

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
        return Verdict(0.0, WRONG, extracted=answer[:200])  # a box may hold megabytes


def _held_out(operation: str, a: int, b: int) -> bool:
    """True for one operand pair in `TEST_SHARE`, by hash. 12*34 and 34*12 are the same pair."""
    # Not `hash`, which Python salts anew in each process.
    pair = f"{max(a, b)}{OPERATIONS[operation][0]}{min(a, b)}"
    return hashlib.blake2b(pair.encode(), digest_size=8).digest()[0] % TEST_SHARE == 0


def _digit_pair(digits: Sequence[int]) -> tuple[int, int]:
    if len(digits) != 2 or not all(isinstance(count, int) and 1 <= count <= 12 for count in digits):
        raise ValueError(f"digits must be two integers in [1, 12], got {list(digits)}: one for each operand")
    return digits[0], digits[1]


def _check_levels(count: int, weights: Sequence[float] | None, problems_per_level: int | None) -> None:
    if count == 0:
        raise ValueError("levels must have at least one pair of digits, got none")
    if weights is not None and problems_per_level is not None:
        raise ValueError("level_weights mixes the levels, problems_per_level walks through them: give one of the two")
    if problems_per_level is not None and problems_per_level < 1:
        raise ValueError(f"problems_per_level must be >= 1, got {problems_per_level}")
    if weights is not None and (len(weights) != count or min(weights) < 0 or sum(weights) <= 0):
        raise ValueError(f"level_weights must be {count} numbers >= 0, one for each level, got {list(weights)}")
