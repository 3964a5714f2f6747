"""`tgpo/GuessNumber-v0`: find a number with the help of `higher` and `lower`, in few guesses."""

from __future__ import annotations

import random
import re

import numpy as np

from .base import Problem
from .boxed import last_boxed
from .multi_turn import MultiTurnEnv
from .verdict import CORRECT, UNPARSABLE, WRONG, Verdict

REWARDS = ("success", "efficiency")
PROMPTS = ("plain", "chat")
MAX_NUMBER = 10**9
_NUMBER = re.compile(r"[+-]?\d{1,12}", re.ASCII)


class GuessNumberEnv(MultiTurnEnv):
    r"""A number from 1 to `high` is thought of; each response guesses one in `\boxed{}` and is told which way to go.

    A response without a readable guess uses up its turn too. Problem i depends on `seed` and on i alone.

    Args:
        high: the largest number, 2 to 10^9.
        max_turns: guesses; None: as many as halving the interval needs at worst, ceil(log2(high + 1)).
        reward: `success`, 1.0 for a number found; `efficiency`, 1.0 for one found in as many guesses as halving needs
            for this very number, and less in proportion to the guesses that went beyond, needed / taken.
        prompt: `plain`, or `chat`: the rules and each hint are a user's messages, for the model's chat template.
        seed: which endless sequence of numbers the indices address.

    Raises:
        ValueError: for an argument outside its range.
    """

    def __init__(
        self,
        *,
        high: int = 100,
        max_turns: int | None = None,
        reward: str = "success",
        prompt: str = "plain",
        seed: int = 0,
    ) -> None:
        if isinstance(high, bool) or not isinstance(high, int) or not 2 <= high <= MAX_NUMBER:
            raise ValueError(f"high must be an integer in [2, {MAX_NUMBER}], got {high!r}")
        if reward not in REWARDS:
            raise ValueError(f"reward must be one of {', '.join(REWARDS)}, got {reward!r}")
        if prompt not in PROMPTS:
            raise ValueError(f"prompt must be one of {', '.join(PROMPTS)}, got {prompt!r}")
        super().__init__(high.bit_length() if max_turns is None else max_turns)
        self.high, self.reward, self.prompt, self.seed = high, reward, prompt, seed

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """The rules, and the number as the answer."""
        prompt = (
            f"I think of a whole number from 1 to {self.high}. Find it in at most {self.max_turns} guesses. Write each "
            "guess as \\boxed{number}; I say whether my number is higher or lower.\n"
        )
        messages = ({"role": "user", "content": prompt.strip()},) if self.prompt == "chat" else None
        return Problem(prompt, str(random.Random(f"{self.seed}/{index}").randint(1, self.high)), messages)

    def gold_response(self, index: int) -> tuple[str, ...]:
        """The guesses of halving; only the last of them where `max_turns` is too small for all."""
        guesses = halving(int(self.problem(index, self.np_random).answer), self.high)
        return tuple(f"\\boxed{{{guess}}}" for guess in guesses[-self.max_turns :])

    def respond(self, problem: Problem, response: str) -> str | Verdict:
        """`higher`, `lower`, or the verdict on the right guess."""
        guess, number = _guess(response), int(problem.answer)
        left = self.max_turns - self.turn
        if guess is None:
            return f"\nI see no guess in \\boxed{{}}. Guesses left: {left}.\n"
        if guess != number:
            return f"\nMy number is {'higher' if number > guess else 'lower'} than {guess}. Guesses left: {left}.\n"
        efficiency = min(1.0, len(halving(number, self.high)) / self.turn)
        score = efficiency if self.reward == "efficiency" else 1.0
        return Verdict(score, CORRECT, extracted=str(guess), parts={"success": 1.0, "efficiency": efficiency})

    def give_up(self, problem: Problem, response: str) -> Verdict:
        """Wrong, or unparsable where the last response had no guess."""
        guess, parts = _guess(response), {"success": 0.0, "efficiency": 0.0}
        detail = f"not found in {self.max_turns} guesses; the number was {problem.answer}"
        if guess is None:
            return Verdict(0.0, UNPARSABLE, detail=detail, parts=parts)
        return Verdict(0.0, WRONG, extracted=str(guess), detail=detail, parts=parts)


def halving(number: int, high: int) -> list[int]:
    """The guesses that find `number` by asking for the middle of what is left, `number` included."""
    low, guesses = 1, []
    while True:
        guesses.append((low + high) // 2)
        if guesses[-1] == number:
            return guesses
        low, high = (guesses[-1] + 1, high) if number > guesses[-1] else (low, guesses[-1] - 1)


def _guess(response: str) -> int | None:
    boxed = last_boxed(response)
    found = None if boxed is None else _NUMBER.fullmatch(boxed.strip())
    return int(found[0]) if found else None
