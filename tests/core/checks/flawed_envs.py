"""Environments with one flaw each, for the checks to find: under ids with this module's name, as a user's."""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np

from tgpo_ray.envs import Problem, SingleTurnEnv, TextEnv, Verdict, shared_pool


class Sums(SingleTurnEnv):
    """Nothing is wrong with it."""

    num_problems = 12

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        return Problem(f"{index}+{index}=", str(2 * index))

    def gold_response(self, index: int) -> str | None:
        return str(2 * index)

    def verify(self, problem: Problem, response: str) -> Verdict | float | Mapping[str, Any]:
        return {"score": float(response == problem.answer), "extracted": response[:50]}


class Unseeded(Sums):
    """Its prompt depends on the process."""

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        return Problem(f"{index}+{index}= (process {os.getpid()})", str(2 * index))


class Remembering(Sums):
    """Its prompt depends on the episodes before."""

    played = 0

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        self.played += 1
        return Problem(f"Problem {self.played}: {index}+{index}=", str(2 * index))


class Wordless(Sums):
    """One prompt is empty."""

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        return Problem("" if index == 2 else f"{index}+{index}=", str(2 * index))


class Halved(Sums):
    """Its prompts have half of a character, as JSON can spell it."""

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        return Problem(f"{index}+{index}=\ud83d", str(2 * index))


class Unpicklable(Sums):
    """Holds a lock."""

    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()


class WrongGold(Sums):
    """Two rows have a wrong answer."""

    def gold_response(self, index: int) -> str | None:
        return str(2 * index + (index in (3, 7)))


class NoGold(Sums):
    """Knows no right response."""

    def gold_response(self, index: int) -> str | None:
        return None


class Lenient(Sums):
    """Takes any response that begins with the answer."""

    def verify(self, problem: Problem, response: str) -> Verdict | float | Mapping[str, Any]:
        return {"score": float(response.startswith(problem.answer)), "extracted": response[:50]}


class Generous(Sums):
    """A right response is worth 2, a long one is not a number."""

    def verify(self, problem: Problem, response: str) -> Verdict | float | Mapping[str, Any]:
        return float("nan") if len(response) > 50_000 else 2.0 * (response == problem.answer)


class Raising(TextEnv):
    """Reads a number without looking."""

    num_problems = 3

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        return f"{index}=", {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        return "", float(int(action) == 1), True, False, {}


class Duplicated(Sums):
    """One problem comes three times, once with another answer; another one twice, with its answer in two spellings."""

    rows = (("2+3=", "5"), ("2+3=", "5"), (" 2+3= ", "6"), ("1/2+1/2=", "1"), ("1/2+1/2=", "1.0"), ("3+3=", "6"))
    num_problems = len(rows)

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        return Problem(*self.rows[index])

    def gold_response(self, index: int) -> str | None:
        return self.rows[index][1]

    def verify(self, problem: Problem, response: str) -> Verdict | float | Mapping[str, Any]:
        try:
            score = float(response[:50]) == float(problem.answer)
        except ValueError:
            score = response == problem.answer
        return {"score": float(score), "extracted": response[:50]}


class ReadInPart(Duplicated):
    """Of an answer with a unit it reads the number alone, and of the response it wants all."""

    rows = (("How long?", "6m"), ("3+3=", "6"), ("3+4=", "7"), ("Who?", "['2', '9']"))
    num_problems = len(rows)

    def verify(self, problem: Problem, response: str) -> Verdict | float | Mapping[str, Any]:
        verdict: Any = super().verify(problem, response)
        short = problem.answer.removesuffix("m")
        return {**verdict, "score": max(verdict["score"], float(response == short))}


class Printed(Duplicated):
    """Its problems and one answer are lists and dicts that were printed."""

    rows = (
        *((f"Solve: [{{'role': 'user', 'content': '{i}+1='}}]", str(i + 1)) for i in range(3)),
        ("None", "{'ground_truth': '7'}"),
    )
    num_problems = len(rows)


class Constant(Sums):
    """Every response is right."""

    def verify(self, problem: Problem, response: str) -> Verdict | float | Mapping[str, Any]:
        return 1.0


class Never(Sums):
    """No response is right."""

    def verify(self, problem: Problem, response: str) -> Verdict | float | Mapping[str, Any]:
        return 0.0


class Pooled(Sums):
    """Verifies in a process of its own."""

    swallow = False

    def verify(self, problem: Problem, response: str) -> Verdict | float | Mapping[str, Any]:
        verdict = shared_pool().verify("operator:eq", problem.answer, response, deadline_s=4.0)
        return verdict.score if self.swallow else verdict


class Swallowing(Pooled):
    """Makes a wrong answer of a verifier that hangs."""

    swallow = True


class Turns(TextEnv):
    """Three turns; right is what the last one says."""

    num_problems = 2

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        self.turn, self.said = 0, "Name a number, please. "
        return self.said, {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        self.turn += 1
        observation = self.observation(action)
        self.said += action + observation
        return observation, float(self.turn == 3), self.turn == 3, False, {"outcome": "correct"}

    def observation(self, action: str) -> str:
        return "" if self.turn == 3 else "Another one. "


class Repeating(Turns):
    """Answers with the whole conversation."""

    def observation(self, action: str) -> str:
        return f"{self.said}{action}"


class Silent(Turns):
    """Goes on without a word."""

    def observation(self, action: str) -> str:
        return ""


for _kind in (
    Sums, Unseeded, Remembering, Unpicklable, WrongGold, NoGold, Lenient, Generous, Raising, Pooled, Swallowing,
    Turns, Repeating, Silent, Duplicated, ReadInPart, Printed, Constant, Never, Wordless, Halved,
):  # fmt: skip
    if f"{_kind.__name__}-v0" not in gymnasium.registry:
        gymnasium.register(f"{_kind.__name__}-v0", entry_point=f"{__name__}:{_kind.__name__}")
