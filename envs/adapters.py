"""Environments of the packages `verifiers` and `gem` as ours. A package is imported only where it is named."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded

from .base import Problem, SingleTurnEnv, TextEnv, final_info
from .gem_library import SEEDS
from .options import takes
from .problem_rows import problem_of
from .verdict import CORRECT, WRONG, Verdict
from .verifiers import VerifierOptions
from .verifiers_library import cached_source

SCORE = "tgpo_ray.envs.verifiers_library:score"
PLAY = "tgpo_ray.envs.gem_library:play"


@dataclass(frozen=True)
class LibraryOptions(VerifierOptions):
    """Which environment of another package, and the process that plays or scores it.

    Raises:
        ValueError: for an environment that is no name, and for `kwargs` that are no JSON values.
    """

    environment: str
    """An id of the package, or `module:function` (`/path/file.py:function`) that returns an environment."""
    _: KW_ONLY
    kwargs: Mapping[str, Any] | None = None
    """Arguments of the function, or settings of the id. JSON values, as another process makes the environment too."""
    deadline_s: float = 30.0
    """Seconds for one score, or for `reset` and each step. Loading does not count. The default leaves time for a rubric
    that asks a judge model."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.environment, str):
            raise ValueError(
                f"environment must be an id or 'module:function', got {self.environment!r}: it is made in other "
                "processes too"
            )
        try:
            self.json_kwargs  # noqa: B018  # raises for other values
        except TypeError as failure:
            raise ValueError(
                f"kwargs of {self.environment!r} must be JSON values, for another process: {failure}"
            ) from None

    @property
    def json_kwargs(self) -> str:
        """`kwargs` as the worker gets them. Equal arguments have equal texts, so a cache can use them as its key."""
        return json.dumps(dict(self.kwargs or {}), sort_keys=True)


class VerifiersEnv(SingleTurnEnv):
    """Problems and scores of the `verifiers` package, where one response is the whole episode.

    Both of its kinds work: a classic single-turn environment with data set and rubric (up to 0.3), and a taskset whose
    tasks need no tools, container or runtime (0.4 and later). The score is computed in a process of the verifier pool
    that is killed at `deadline_s`. An exception of a rubric is the outcome `error`. Classic rubrics themselves catch an
    exception of a reward function, log it and count 0.0. `LibraryOptions` lists the arguments.

    Raises:
        ValueError: for an environment of several turns, with tools, or without rubric and tasks.
        ImportError: when a package that is named is not installed.
    """

    @takes(LibraryOptions)
    def __init__(self, options: LibraryOptions) -> None:
        super().__init__()
        self.options, self.deadline_s = options, options.deadline_s
        self._source = (options.environment, options.json_kwargs)
        # Loaded here, so that a wrong id or a missing package fails where the environment is made.
        self.num_problems = len(cached_source(*self._source))

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """Row or task `index`. Messages go through the model's chat template."""
        source = cached_source(*self._source)
        return problem_of(source.prompt(index), source.answer(index), index=index)

    def verify(self, problem: Problem, response: str) -> Verdict:
        """The environment's own weighted reward, `correct` from 1.0 upwards, with its named scores as parts."""
        return self.options.verify(SCORE, *self._source, problem.extra["index"], response)


@dataclass(frozen=True, kw_only=True)
class GemOptions(LibraryOptions):
    """Options of `tgpo/Gem-v0`."""

    seed: int = 0
    """Which endless sequence of problems the indices address."""


class GemEnv(TextEnv):
    """An environment of the `gem` package, of one turn or several: text observations, text actions.

    gem's environments choose their problem by the seed of `reset`, so problem i has a seed made of `seed` and i. They
    are played in a process of the verifier pool that is killed at its deadline. Where another episode came between two
    turns, the earlier turns are played again there. An environment whose seed does not decide its turns ends with the
    outcome `error`.

    Rewards are added up over the turns; the outcome is `correct` where their sum reaches 1.0. A turn's text is gem's
    observation with the `prefix` and `suffix` of its info. `GemOptions` lists the arguments.

    Raises:
        ValueError: when the environment cannot be made or begun, with the reason that its process gave.
    """

    @takes(GemOptions)
    def __init__(self, options: GemOptions) -> None:
        super().__init__()
        self.options, self.deadline_s = options, options.deadline_s
        self._source = (options.environment, options.json_kwargs)
        self._actions: list[str] | None = None
        self._episode_seed, self._trail, self._total = 0, "", 0.0
        # One episode is begun here, so that a wrong id or argument fails where the environment is made.
        reply = self._played([])
        if reply.data is None:
            raise ValueError(f"the environment {options.environment!r} of gem cannot begin: {reply.detail}")

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        # A hash, so that neighbouring seeds of ours share no problems of gem's.
        digest = hashlib.blake2b(f"{self.options.seed}/{index}".encode(), digest_size=8).digest()
        self._episode_seed, self._actions, self._total = int.from_bytes(digest, "big") % SEEDS, [], 0.0
        reply = self._played([])
        if reply.data is None:
            raise RuntimeError(f"problem {index} of {self.options.environment!r} could not begin: {reply.detail}")
        self._trail = reply.data["trail"]
        return reply.data["turn"][0], {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """gem's own step. Its observation becomes a paragraph after the policy's text.

        Raises:
            gymnasium.error.ResetNeeded: when the episode is over or never began.
        """
        if self._actions is None:
            raise ResetNeeded("the episode is over or never began: call reset() before the next step()")
        self._actions = [*self._actions, action]
        start = time.monotonic()
        reply = self._played(self._actions)
        elapsed = time.monotonic() - start
        if reply.data is None:
            self._actions = None  # the worker was killed or raised, so the episode cannot go on
            return "", 0.0, True, False, final_info(reply, elapsed)
        observation, reward, terminated, truncated = reply.data["turn"]
        self._total, self._trail = self._total + reward, reply.data["trail"]
        if not (terminated or truncated):
            # The runner appends this text to the policy's tokens as it is, so it brings its own line breaks.
            return f"\n{observation}\n", reward, False, False, {}
        self._actions = None
        verdict = Verdict(self._total, CORRECT if self._total >= 1.0 else WRONG, seconds=reply.seconds)
        return "", reward, terminated, truncated, final_info(verdict, elapsed)

    def _played(self, actions: list[str]) -> Verdict:
        # The whole episode goes along: the worker that answers may be a new one.
        return self.options.verify(PLAY, *self._source, self._episode_seed, actions, self._trail)
