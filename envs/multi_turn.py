"""Base of environments with several turns, in which the environment answers the policy."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded

from .base import Problem, TextEnv, final_info
from .verdict import Verdict


class MultiTurnEnv(TextEnv):
    r"""Several responses to one problem. Subclasses implement `problem`, `respond` and `give_up`.

    The observation that `step` returns is only this turn's text, not the conversation so far. The runner appends it to
    the policy's text, as tokens that no loss trains on. So the text must continue there, with the line breaks that it
    needs: `"\n<result>42</result>\n"`. Where the problem has `messages`, the turn is a message too, in the role
    `turn_role`, and the runner appends it as the model's chat template writes it.

    The info of a turn before the last has `turn`, counted from 1, and in a chat `messages` with this turn's messages.
    The info of the last turn has `turn` and the keys that `TextEnv` lists. Only the last turn has a reward.

    Args:
        max_turns: responses that an episode may take. `give_up` gives the verdict after the last of them.
    """

    turn_role: str | None = "user"  # of the later turns of a chat; None: text within the policy's own turn
    _current: Problem | None = None

    def __init__(self, max_turns: int) -> None:
        super().__init__()
        if isinstance(max_turns, bool) or not isinstance(max_turns, int) or max_turns < 1:
            raise ValueError(f"max_turns must be an integer >= 1, got {max_turns!r}: an episode takes a response")
        self.max_turns = max_turns
        self.turn = 0  # responses so far in this episode

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """Problem `index`; `rng` is seeded by `reset`."""
        raise NotImplementedError(f"{type(self).__name__} must implement problem(index, rng)")

    def respond(self, problem: Problem, response: str) -> str | Verdict:
        """The environment's text after `response`, or the verdict that ends the episode.

        An exception here becomes the outcome `error`.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement respond(problem, response)")

    def give_up(self, problem: Problem, response: str) -> Verdict:
        """The verdict when `response` was the last that the episode may take, and did not end the episode."""
        raise NotImplementedError(f"{type(self).__name__} must implement give_up(problem, response)")

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        self._current, self.turn = self.problem(index, self.np_random), 0
        return self._current.observation()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """The environment's answer to the response `action`. The verdict terminates the episode; it is never truncated.

        Raises:
            gymnasium.error.ResetNeeded: when the episode is over or never began.
        """
        if self._current is None:
            raise ResetNeeded("the episode is over or never began: call reset() before the next step()")
        self.turn += 1
        start = time.monotonic()
        try:
            answer = self.respond(self._current, action)
            if isinstance(answer, str) and self.turn >= self.max_turns:
                answer = self.give_up(self._current, action)
        except Exception as failure:  # as in SingleTurnEnv: counted, and the other episodes continue
            answer = Verdict.of_failure(failure)
        if isinstance(answer, str):
            return answer, 0.0, False, False, {"turn": self.turn, **self._message(self._current, answer)}
        self._current = None
        return "", answer.score, True, False, {"turn": self.turn, **final_info(answer, time.monotonic() - start)}

    def _message(self, problem: Problem, text: str) -> dict[str, Any]:
        if problem.messages is None or self.turn_role is None:
            return {}
        return {"messages": [{"role": self.turn_role, "content": text.strip()}]}
