"""Environments of the `verifiers` and `gem` packages as ours. Neither package is imported unless it is named."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded

from .base import Problem, SingleTurnEnv, TextEnv
from .gem_library import SEEDS
from .multi_turn import final_info
from .problem_rows import problem_of
from .verdict import CORRECT, WRONG, Verdict
from .verifiers import shared_pool
from .verifiers_library import cached_source

DEADLINE_S = 30.0  # a rubric may ask a model that judges
SCORE = "tgpo_ray.envs.verifiers_library:score"
PLAY = "tgpo_ray.envs.gem_library:play"


class VerifiersEnv(SingleTurnEnv):
    """Problems and scores of the `verifiers` package, where one response is the whole episode.

    Both of its kinds: a classic single-turn environment with data set and rubric (up to 0.3), and a taskset whose tasks
    need no tools, container or runtime (0.4 and later). The score is computed in a process of the verifier pool that is
    killed at `deadline_s`. What a rubric raises is the outcome `error`, but classic rubrics take an exception of a
    reward function for 0.0 themselves, and log it.

    Args:
        environment: an id of an installed environment package, or `module:function` (`/path/file.py:function`) that
            returns an environment or a taskset.
        kwargs: arguments of the function, or settings of the id; JSON values, as another process loads it too.
        deadline_s: seconds for one score. Loading the environment does not count.
        verify_workers: processes of the shared verifier pool.

    Raises:
        ValueError: for an environment of several turns, with tools, or without rubric and tasks.
        ImportError: when a package that is named is not installed.
    """

    def __init__(
        self,
        environment: str,
        *,
        kwargs: Mapping[str, Any] | None = None,
        deadline_s: float = DEADLINE_S,
        verify_workers: int = 1,
    ) -> None:
        super().__init__()
        self.environment, self._kwargs = _named(environment, kwargs)
        self.deadline_s, self.verify_workers = deadline_s, verify_workers
        self.num_problems = len(cached_source(self.environment, self._kwargs))

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """Row or task `index`; messages go through the model's chat template."""
        source = cached_source(self.environment, self._kwargs)
        return problem_of(source.prompt(index), source.answer(index), index=index)

    def verify(self, problem: Problem, response: str) -> Verdict:
        """Its own weighted reward; `correct` from 1.0 upwards. The named scores are the reward's parts."""
        arguments = (self.environment, self._kwargs, problem.extra["index"], response)
        return shared_pool(self.verify_workers).verify(SCORE, *arguments, deadline_s=self.deadline_s)


class GemEnv(TextEnv):
    """An environment of the `gem` package, of one turn or several: text observations, text actions.

    gem's environments choose their problem by the seed of `reset`, so problem i is theirs at a seed made of `seed` and
    i. They are played in a process of the verifier pool that is killed at its deadline; where another episode came
    between two turns, the earlier turns are played again there. An environment that is not the same every time ends
    with the outcome `error`.

    Rewards are added up over the turns; the outcome is `correct` where their sum reaches 1.0. A turn's text is gem's
    observation with the `prefix` and `suffix` of its info.

    Args:
        environment: an id that `gem.make` knows, or `module:function` (`/path/file.py:function`) that returns one.
        kwargs: arguments of the above; JSON values.
        seed: which endless sequence of problems the indices address.
        deadline_s: seconds that `reset` or one step may take, earlier turns included where they are played again.
        verify_workers: processes of the shared verifier pool.

    Raises:
        ValueError: when the environment cannot be made or begun; it says what its process said.
    """

    def __init__(
        self,
        environment: str,
        *,
        kwargs: Mapping[str, Any] | None = None,
        seed: int = 0,
        deadline_s: float = DEADLINE_S,
        verify_workers: int = 1,
    ) -> None:
        super().__init__()
        self.environment, self._kwargs = _named(environment, kwargs)
        self.seed, self.deadline_s, self.verify_workers = seed, deadline_s, verify_workers
        self._actions: list[str] | None = None
        self._episode_seed, self._trail, self._total = 0, "", 0.0
        played = self._played([])
        if played.data is None:
            raise ValueError(f"the environment {environment!r} of gem cannot begin: {played.detail}")

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        digest = hashlib.blake2b(f"{self.seed}/{index}".encode(), digest_size=8).digest()
        self._episode_seed, self._actions, self._total = int.from_bytes(digest, "big") % SEEDS, [], 0.0
        played = self._played([])
        if played.data is None:
            raise RuntimeError(f"problem {index} of {self.environment!r} could not begin: {played.detail}")
        self._trail = played.data["trail"]
        return played.data["turn"][0], {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """gem's own step; its observation becomes a paragraph of its own after what the policy wrote.

        Raises:
            gymnasium.error.ResetNeeded: when the episode is over or never began.
        """
        if self._actions is None:
            raise ResetNeeded("the episode is over or never began: call reset() before the next step()")
        self._actions = [*self._actions, action]
        start = time.monotonic()
        played = self._played(self._actions)
        elapsed = time.monotonic() - start if played.seconds is None else played.seconds
        if played.data is None:
            self._actions = None
            return "", 0.0, True, False, final_info(played, elapsed)
        observation, reward, terminated, truncated = played.data["turn"]
        self._total, self._trail = self._total + reward, played.data["trail"]
        if not (terminated or truncated):
            return f"\n{observation}\n", reward, False, False, {}
        self._actions = None
        verdict = Verdict(self._total, CORRECT if self._total >= 1.0 else WRONG)
        return "", reward, terminated, truncated, final_info(verdict, elapsed)

    def _played(self, actions: list[str]) -> Verdict:
        arguments = (self.environment, self._kwargs, self._episode_seed, actions, self._trail)
        return shared_pool(self.verify_workers).verify(PLAY, *arguments, deadline_s=self.deadline_s)


def _named(environment: Any, kwargs: Mapping[str, Any] | None) -> tuple[str, str]:
    if not isinstance(environment, str):
        raise ValueError(
            f"environment must be an id or 'module:function', got {environment!r}: it is made in other processes too"
        )
    try:
        return environment, json.dumps(dict(kwargs or {}), sort_keys=True)
    except TypeError as failure:
        raise ValueError(f"kwargs of {environment!r} must be JSON values, for another process: {failure}") from None
