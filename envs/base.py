"""Text environments: a prompt is an observation, a response is an action, the verifier's score is the reward."""

from __future__ import annotations

import string
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.spaces import Text

from .format_gate import FormatGate
from .hints import nearest
from .options import options_of
from .verdict import Verdict

MAX_TEXT_LENGTH = 2**23  # characters, more than a million tokens
SAMPLE_LENGTH = 64
UNLIMITED_INDEX = 2**31  # an unlimited environment draws its indices below

Message = dict[str, str]
"""One chat message: `role` and `content`."""


class TextSpace(Text):
    """Any Unicode text of up to `max_length` characters, the empty one included.

    `gymnasium.spaces.Text` holds alphanumeric strings unless told, and draws `max_length` characters. This space holds
    every string, and samples a short printable one.
    """

    def __init__(self, max_length: int = MAX_TEXT_LENGTH, *, seed: int | np.random.Generator | None = None) -> None:
        super().__init__(max_length, min_length=0, charset=string.printable, seed=seed)

    def contains(self, x: Any) -> bool:
        """True for every string within the length."""
        return isinstance(x, str) and len(x) <= self.max_length

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        """A short printable string; `mask` and `probability` as in `gymnasium.spaces.Text`."""
        if mask is None and probability is None:
            length = int(self.np_random.integers(min(SAMPLE_LENGTH, self.max_length) + 1))
            return super().sample(mask=(length, None))
        return super().sample(mask=mask, probability=probability)

    @property
    def is_np_flattenable(self) -> bool:
        """False: no user needs a vector of `max_length` characters over all of Unicode."""
        return False

    def __repr__(self) -> str:
        return f"TextSpace(max_length={self.max_length})"


class Seconds(float):
    """A measured duration: a float, except that any two of them are equal.

    Two runs of one episode take different times but count as the same episode: gymnasium's `check_env` compares their
    infos with `==`. Order, arithmetic and comparison with a plain number work as for floats.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return True if isinstance(other, Seconds) else float(self) == other

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # type: ignore[assignment]  # equal to everything measured, so no hash is consistent


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem as the policy sees it, and what its verifier needs."""

    prompt: str
    answer: str
    messages: tuple[Message, ...] | None = None  # the prompt as a chat, for the model's chat template to render
    extra: Mapping[str, Any] = field(default_factory=dict)  # other values that `verify` needs

    def observation(self) -> tuple[str, dict[str, Any]]:
        """Observation and info at the start of an episode: the prompt, and the chat where there is one."""
        if self.messages is None:
            return self.prompt, {}
        return self.prompt, {"messages": [dict(message) for message in self.messages]}


class TextEnv(gymnasium.Env[str, str]):
    """Base of all environments: text in, text out, problems addressed by index.

    `reset(seed=s, options={"index": i})` begins problem i. The same seed and index give the same episode, in any
    process. Without an index one is drawn from the seeded generator. Subclasses implement `begin` and `step`;
    `step` returns (observation, reward, terminated, truncated, info), and the info of the last step carries

        reward_parts  dict[str, float], named parts of the reward
        answer        str or None, as the verifier read it
        outcome       correct | wrong | unparsable | timeout | error
        verify_s      `Seconds`, the verifier's time
        detail        str, the reason, or ""

    The info of `reset` has `problem_index`. It has `messages` (role and content) where the model's chat template
    renders the prompt. Without them the observation itself is the prompt.
    """

    metadata = {"render_modes": []}  # noqa: RUF012  # gymnasium declares it so
    num_problems: int | None = None  # None: unlimited, every index >= 0 is a problem
    gate: FormatGate = FormatGate(on=False)  # of an environment that reads what follows a thought

    def __init__(self) -> None:
        self.observation_space = TextSpace()
        self.action_space = TextSpace()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[str, dict[str, Any]]:
        """First observation and info of the problem `options["index"]`.

        Raises:
            ValueError: for an unknown option or an index outside [0, num_problems).
        """
        super().reset(seed=seed)
        index = self._checked_index(options or {})
        if index is None:
            index = int(self.np_random.integers(self.num_problems or UNLIMITED_INDEX))
        observation, info = self.begin(index)
        self._see_prompt(None if info.get("messages") else observation)
        return observation, {"problem_index": index, **info}

    def prompt_rendered(self, end: str) -> None:
        """Takes the end of the prompt as the model reads it. A runner calls it after `reset`.

        Only a chat template knows whether it opens a thought for the response. `gate` reads it here.
        """
        self._see_prompt(end)

    def _see_prompt(self, prompt: str | None) -> None:
        if isinstance(self.gate, FormatGate):  # a subclass may call something else so
            self.gate = self.gate.after(prompt)

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        """First observation and info of problem `index`; randomness comes from `self.np_random`."""
        raise NotImplementedError(f"{type(self).__name__} must implement begin(index)")

    def gold_response(self, index: int) -> str | tuple[str, ...] | None:
        """A response to problem `index` that scores 1.0 (one a turn), or None where the environment knows none."""
        return None

    def lesson(self, role: str, index: int) -> tuple[str, str | Sequence[tuple[str, bool]]] | None:
        """Prompt and response number `index` that the tiny model `policy` or `teacher` learns of this environment.

        `tgpo-ray make-models --env` asks where the two should know different things. None: both learn `gold_response`.
        A response may be in pieces, each a text and whether it is learned; the others are read alone.
        """
        return None

    @classmethod
    def argument_texts(cls) -> dict[str, str]:
        """The documentation of each argument by name; empty where the constructor takes no `Options`."""
        options = options_of(cls)
        return options.texts() if options else {}

    def _checked_index(self, options: Mapping[str, Any]) -> int | None:
        for name in options:
            if name != "index":
                hint = nearest(name, ["index"], cutoff=0.4)
                raise ValueError(f"options has the unknown key {name!r}{hint}: the only one is 'index'")
        index = options.get("index")
        if index is None:
            return None
        if isinstance(index, bool) or not isinstance(index, int | np.integer):
            raise ValueError(f"options['index'] must be an integer, got {index!r}")
        if index < 0 or (self.num_problems is not None and index >= self.num_problems):
            limit = "infinity" if self.num_problems is None else self.num_problems
            raise ValueError(
                f"options['index'] must be in [0, {limit}), got {index}: the environment has no such problem"
            )
        return int(index)


class SingleTurnEnv(TextEnv):
    """One prompt, one response, one score. Subclasses implement `problem` and `verify`."""

    _current: Problem | None = None

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """Problem `index`. `rng` is seeded by `reset`, so that all episodes of a group see the same shuffles."""
        raise NotImplementedError(f"{type(self).__name__} must implement problem(index, rng)")

    def verify(self, problem: Problem, response: str) -> Verdict | float | Mapping[str, Any]:
        """A verdict, or a value that `Verdict.from_value` accepts. An exception here becomes the outcome `error`."""
        raise NotImplementedError(f"{type(self).__name__} must implement verify(problem, response)")

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        self._current = self.problem(index, self.np_random)
        return self._current.observation()

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Scores the response `action` and ends the episode.

        Raises:
            gymnasium.error.ResetNeeded: when the episode is over or never began.
        """
        if self._current is None:
            raise ResetNeeded("a single-turn episode takes one response: call reset() before the next step()")
        problem, self._current = self._current, None
        start = time.monotonic()
        try:
            verdict = Verdict.from_value(self.verify(problem, action))
        except Exception as failure:  # a broken verifier is counted and must not end the run
            verdict = Verdict.of_failure(failure)
        return "", verdict.score, True, False, final_info(verdict, time.monotonic() - start)


def final_info(verdict: Verdict, elapsed_s: float) -> dict[str, Any]:
    """The info of an episode's last step. The verifier's own time replaces `elapsed_s` where it was measured."""
    return {
        "reward_parts": dict(verdict.parts) or {"accuracy": verdict.score},
        "answer": verdict.extracted,
        "outcome": verdict.outcome,
        "verify_s": Seconds(elapsed_s if verdict.seconds is None else verdict.seconds),
        "detail": verdict.detail,
    }
