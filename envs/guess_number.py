"""`tgpo/GuessNumber-v0`: find a number in few guesses, with `higher` and `lower` as hints."""

from __future__ import annotations

import random
import re
from dataclasses import dataclass

import numpy as np

from .base import Problem
from .boxed import last_boxed
from .format_gate import FormatGate
from .hints import check_choice
from .multi_turn import MultiTurnEnv
from .options import Options, takes
from .verdict import CORRECT, UNPARSABLE, WRONG, Verdict

REWARDS = ("success", "efficiency")
PROMPTS = ("plain", "chat")
MAX_NUMBER = 10**9
# Few digits, and ASCII ones only: int() of thousands of digits is slow, and above 4300 it raises.
_NUMBER = re.compile(r"[+-]?\d{1,12}", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class GuessNumberOptions(Options):
    """Options of `tgpo/GuessNumber-v0`.

    Raises:
        ValueError: for a value outside its range.
    """

    high: int = 100
    """The largest number, 2 to 10^9."""
    max_turns: int | None = None
    """Guesses. null: as many as halving the interval needs at worst, ceil(log2(high + 1))."""
    reward: str = "success"
    """`success` is 1.0 when the number is guessed. `efficiency` is 1.0 when it is guessed in as many guesses as halving
    needs for this number, and needed / taken when it took more."""
    prompt: str = "plain"
    """`plain`, or `chat`: the rules and each hint are a user's messages, for the model's chat template."""
    seed: int = 0
    """Which endless sequence of numbers the indices address."""

    def __post_init__(self) -> None:
        super().__post_init__()
        high = self.high
        if isinstance(high, bool) or not isinstance(high, int) or not 2 <= high <= MAX_NUMBER:
            raise ValueError(f"high must be an integer in [2, {MAX_NUMBER}], got {high!r}")
        check_choice("reward", self.reward, REWARDS)
        check_choice("prompt", self.prompt, PROMPTS)


class GuessNumberEnv(MultiTurnEnv):
    r"""The policy finds a number from 1 to `high`. Each response guesses in `\boxed{}` and gets a hint.

    A response without a readable guess uses up its turn too. Problem i depends only on `seed` and i.
    `GuessNumberOptions` lists the arguments.
    """

    @takes(GuessNumberOptions)
    def __init__(self, options: GuessNumberOptions) -> None:
        # bit_length is ceil(log2(high + 1)), without the rounding of log2.
        super().__init__(options.high.bit_length() if options.max_turns is None else options.max_turns)
        self.options, self.gate = options, FormatGate()

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """The rules, and the number as the answer."""
        prompt = (
            f"I think of a whole number from 1 to {self.options.high}. Find it in at most {self.max_turns} guesses. "
            "Write each guess as \\boxed{number}; I say whether my number is higher or lower.\n"
        )
        messages = ({"role": "user", "content": prompt.strip()},) if self.options.prompt == "chat" else None
        return Problem(prompt, str(self._number(index)), messages)

    def gold_response(self, index: int) -> tuple[str, ...]:
        """The guesses of halving, or only the last ones where `max_turns` is too small for all."""
        guesses = halving(self._number(index), self.options.high)  # the number itself is the last of them
        return tuple(f"{self.gate.empty_thought}\\boxed{{{guess}}}" for guess in guesses[-self.max_turns :])

    def respond(self, problem: Problem, response: str) -> str | Verdict:
        """`higher`, `lower`, or the verdict on the right guess."""
        guess, number = self._guess(response), int(problem.answer)
        left = self.max_turns - self.turn  # `turn` counts this response already
        if guess is None:
            return f"\nI see no guess in \\boxed{{}}. Guesses left: {left}.\n"
        if guess != number:
            return f"\nMy number is {'higher' if number > guess else 'lower'} than {guess}. Guesses left: {left}.\n"
        efficiency = min(1.0, len(halving(number, self.options.high)) / self.turn)
        score = efficiency if self.options.reward == "efficiency" else 1.0
        return Verdict(score, CORRECT, extracted=str(guess), parts={"success": 1.0, "efficiency": efficiency})

    def give_up(self, problem: Problem, response: str) -> Verdict:
        """Wrong, or unparsable where the last response had no guess."""
        guess, parts = self._guess(response), {"success": 0.0, "efficiency": 0.0}
        detail = f"not found in {self.max_turns} guesses; the number was {problem.answer}"
        if guess is None:
            return Verdict(0.0, UNPARSABLE, detail=detail, parts=parts)
        return Verdict(0.0, WRONG, extracted=str(guess), detail=detail, parts=parts)

    def _guess(self, response: str) -> int | None:
        text = self.gate.scored_text(response)
        boxed = None if text is None else last_boxed(text)
        number = None if boxed is None else _NUMBER.fullmatch(boxed.strip())
        return int(number[0]) if number else None

    def _number(self, index: int) -> int:
        return random.Random(f"{self.options.seed}/{index}").randint(1, self.options.high)


def halving(number: int, high: int) -> list[int]:
    """The guesses that find `number` by always guessing the middle of the interval, `number` itself included."""
    low, guesses = 1, []
    while True:
        guesses.append((low + high) // 2)
        if guesses[-1] == number:
            return guesses
        low, high = (guesses[-1] + 1, high) if number > guesses[-1] else (low, guesses[-1] - 1)
