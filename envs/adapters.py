"""Environments of the `verifiers` and `gem` packages as ours. Neither package is imported unless it is named."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import importlib
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np

from .base import Problem, SingleTurnEnv, TextEnv
from .multi_turn import final_info
from .problem_rows import problem_of
from .verdict import CORRECT, WRONG, Verdict

FAR = 2**31  # seeds of gem's environments are below


class VerifiersEnv(SingleTurnEnv):
    """A single-turn environment of the `verifiers` package: its data set and its rubric.

    The rubric runs in this process, asynchronous functions included: `deadline_s` stops one that awaits, and nothing
    stops one that computes. Whatever it raises is the outcome `error`, except what `verifiers` itself takes for 0.

    Args:
        environment: an id that `verifiers.load_environment` knows, `module:function` that returns an environment, or
            one that is already there.
        kwargs: arguments of the above.
        deadline_s: seconds for one call of the rubric.

    Raises:
        ValueError: for an environment of several turns, or without data set or rubric.
        ImportError: when the package that is named is not installed.
    """

    def __init__(self, environment: Any, *, kwargs: Mapping[str, Any] | None = None, deadline_s: float = 30.0) -> None:
        super().__init__()
        self.deadline_s = deadline_s
        self._source = made(environment, kwargs or {}, "verifiers", "load_environment")
        if getattr(self._source, "max_turns", 1) != 1:
            raise ValueError(f"{environment!r} takes several turns: only single-turn environments can be adapted")
        if not hasattr(self._source, "rubric"):
            raise ValueError(f"{environment!r} has no rubric: it is no environment of the verifiers package")
        get = getattr(self._source, "get_dataset", None)
        self._rows: Any = get() if callable(get) else self._source.dataset
        self.num_problems = len(self._rows)

    def problem(self, index: int, rng: np.random.Generator) -> Problem:
        """Row `index` of its data set; messages go through the model's chat template."""
        row = dict(self._rows[index])
        return problem_of(row["prompt"], row.get("answer"), row=row)

    def verify(self, problem: Problem, response: str) -> Verdict:
        """The rubric's weighted reward; `correct` from 1.0 upwards. Its functions' scores are the reward's parts."""
        row = problem.extra["row"]
        completion = response if problem.messages is None else [{"role": "assistant", "content": response}]
        state = {
            "prompt": row["prompt"], "completion": completion, "answer": row.get("answer", ""), "input": row,
            "task": row.get("task", "default"), "info": row.get("info") or {}, "trajectory": [], "timing": {},
        }  # fmt: skip
        reward, parts = asyncio.run(asyncio.wait_for(_rubric_score(self._source.rubric, state), self.deadline_s))
        return Verdict(reward, CORRECT if reward >= 1.0 else WRONG, parts={**parts, "reward": reward})


class GemEnv(TextEnv):
    """An environment of the `gem` package, of one turn or several: text observations, text actions.

    gem's environments choose their problem by the seed of `reset`, so problem i is theirs at a seed made of `seed` and
    i. Rewards are added up over the turns; the outcome is `correct` where their sum reaches 1.0.

    Args:
        environment: an id that `gem.make` knows, `module:function` that returns an environment, or one that is there.
        kwargs: arguments of the above.
        seed: which endless sequence of problems the indices address.
    """

    def __init__(self, environment: Any, *, kwargs: Mapping[str, Any] | None = None, seed: int = 0) -> None:
        super().__init__()
        self._source = made(environment, kwargs or {}, "gem", "make")
        self.seed = seed
        self._total = 0.0

    def begin(self, index: int) -> tuple[str, dict[str, Any]]:
        digest = hashlib.blake2b(f"{self.seed}/{index}".encode(), digest_size=8).digest()
        observation, _ = self._source.reset(seed=int.from_bytes(digest, "big") % FAR)
        self._total = 0.0
        return str(observation), {}

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """gem's own step; its observation becomes a paragraph of its own after what the policy wrote."""
        observation, reward, terminated, truncated, _ = self._source.step(action)
        self._total += float(reward)
        if not (terminated or truncated):
            return f"\n{observation}\n", float(reward), False, False, {}
        verdict = Verdict(self._total, CORRECT if self._total >= 1.0 else WRONG)
        return "", float(reward), bool(terminated), bool(truncated), final_info(verdict, 0.0)


def made(environment: Any, kwargs: Mapping[str, Any], package: str, maker: str) -> Any:
    """The environment that `environment` names: `module:function`, or an id for `package.maker`; else itself."""
    if not isinstance(environment, str):
        return environment
    module, _, name = environment.rpartition(":")
    try:
        if module and not environment.startswith(f"{package}:"):
            found: Any = functools.reduce(getattr, name.split("."), importlib.import_module(module))
            return found(**kwargs)
        return getattr(importlib.import_module(package), maker)(environment, **kwargs)
    except ModuleNotFoundError as failure:
        raise ImportError(f"{environment!r} needs a package that is not installed: {failure.name}") from failure


async def _rubric_score(rubric: Any, state: dict[str, Any]) -> tuple[float, dict[str, float]]:
    """Reward and named scores, from rubrics that take a state and fill it, and from older ones that return a score."""
    names = list(inspect.signature(rubric.score_rollout).parameters)
    if "completion" in names:
        result = rubric.score_rollout(**{name: state.get(name, state) for name in names[:6]})
    else:
        result = rubric.score_rollout(state)
    result = await result if inspect.isawaitable(result) else result
    reward = getattr(result, "reward", None) if result is not None else state["reward"]
    metrics = getattr(result, "metrics", None) if result is not None else state.get("metrics")
    if reward is None:
        raise TypeError("the rubric's score_rollout gave no reward")
    return float(reward), {name: float(value) for name, value in (metrics or {}).items()}
