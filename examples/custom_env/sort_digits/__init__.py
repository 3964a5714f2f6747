"""`SortDigits-v0`, which gives digits in any order. The response has them in ascending order."""

from __future__ import annotations

import gymnasium
import numpy as np

from tgpo_ray.envs import Problem, SingleTurnEnv, Verdict


class SortDigitsEnv(SingleTurnEnv):
    """Prompts such as `3*1*2=`, to which the right response is `123`.

    Args:
        num_digits: number of digits in a problem.
    """

    def __init__(self, *, num_digits: int = 3) -> None:
        super().__init__()
        if num_digits < 2:
            raise ValueError(f"num_digits must be >= 2, got {num_digits}: one digit is always sorted")
        self.num_digits = num_digits

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """The problem of this index."""
        # Not `rng`: the digits depend only on the index, so that problem 7 is the same for all runners.
        digits = np.random.default_rng(index).integers(10, size=self.num_digits).astype(str)
        return Problem("*".join(digits) + "=", answer="".join(sorted(digits)))

    def gold_response(self, index: int) -> str:
        return self.problem(index, self.np_random).answer

    def verify(self, problem: Problem, response: str) -> Verdict:
        """The verdict on the whole response, without spaces around it."""
        answer = response.strip()
        if not answer.isdecimal():
            return Verdict(0.0, "unparsable", detail="the response is not a row of digits")
        right = answer == problem.answer
        return Verdict(float(right), "correct" if right else "wrong", extracted=answer[:100])


gymnasium.register("SortDigits-v0", entry_point=f"{__name__}:SortDigitsEnv")
