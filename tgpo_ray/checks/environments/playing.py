"""The environment under check, the episodes that are played in it, and transcripts to compare two episodes."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tgpo_ray.env_runners import make_env, prompt_ids, tell_prompt

if TYPE_CHECKING:
    from gymnasium import Env

    from tgpo_ray.models import Tokenizer

NUM_PROCEDURAL = 50  # number of problems that are checked if they have no end


@dataclass(frozen=True)
class Played:
    """One episode: the responses, and the prompt, rewards and last info of the environment."""

    index: int
    responses: tuple[str, ...]
    prompt: str
    rewards: tuple[float, ...]  # of each turn
    info: Mapping[str, Any]  # of the last turn
    done: bool
    seconds: float  # of the slowest step

    @property
    def reward(self) -> float:
        return sum(self.rewards)

    @property
    def outcome_text(self) -> str:
        """The text `reward 0.0, wrong, read as '3'`."""
        parts = [f"reward {self.reward:g}"]
        parts += [str(self.info[key]) for key in ("outcome", "detail") if self.info.get(key)]
        if self.info.get("answer") is not None:
            parts.append(f"read as {str(self.info['answer'])[:60]!r}")
        return ", ".join(parts) + ("" if self.done else ", the episode goes on")


@dataclass
class Subject:
    """The environment that is checked, and the extent of the checks."""

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    limit: int = 500  # number of rows that are checked; 0 means all
    seed: int = 0
    reward_range: tuple[float, float] = (0.0, 1.0)
    tokenizer: Tokenizer | None = None  # transformers', where prompt lengths are to be measured
    max_prompt_tokens: int | None = None
    played: list[Played] = field(default_factory=list)  # every episode so far

    def make(self) -> Env[str, str]:
        """Returns a new instance of the environment."""
        return make_env(self.id, self.kwargs)

    @cached_property
    def env(self) -> Env[str, str]:
        return self.make()

    @property
    def num_problems(self) -> int | None:
        return getattr(self.env.unwrapped, "num_problems", None)

    @property
    def has_turns(self) -> bool:
        """Whether the environment may take several responses to a problem, as far as it says so."""
        return (getattr(self.env.unwrapped, "max_turns", None) or 1) > 1

    @cached_property
    def indices(self) -> list[int]:
        """The indices of the problems to check: all, or `limit` of them, the same ones at each call."""
        count = self.num_problems
        if count is None:
            return list(range(min(self.limit or NUM_PROCEDURAL, NUM_PROCEDURAL)))
        if self.limit == 0 or count <= self.limit:
            return list(range(count))
        return sorted(random.Random(self.seed).sample(range(count), self.limit))

    @property
    def looked_at(self) -> str:
        """The text `200 of 8000 problems looked at`."""
        of_all = "" if self.num_problems is None else f" of {self.num_problems}"
        return f"{len(self.indices)}{of_all} problems looked at"

    def reset(self, index: int) -> tuple[str, dict[str, Any]]:
        """Returns the first observation and info; the environment is told the prompt as the model reads it."""
        prompt, info = self.env.reset(seed=self.seed, options={"index": index})
        if self.tokenizer is not None:
            tell_prompt([self.env], self.tokenizer, prompt_ids(self.tokenizer, prompt, info))
        return prompt, info

    def gold(self, index: int) -> tuple[str, ...] | None:
        """Returns the environment's right responses, one for each turn, or None if it knows none."""
        if not hasattr(self.env.unwrapped, "gold_response"):
            return None
        self.reset(index)  # the right response may depend on a shuffle, and on what the prompt begins
        known = self.env.unwrapped.gold_response(index)  # pyright: ignore[reportAttributeAccessIssue]  (see hasattr)
        if known is None:
            return None
        return (known,) if isinstance(known, str) else tuple(known)

    def play(self, index: int, responses: Sequence[str], during: AbstractContextManager[Any] | None = None) -> Played:
        """Returns one episode in `env`, which `played` records. Its steps run within the context `during`."""
        prompt, _ = self.reset(index)
        rewards: list[float] = []
        slowest, info, done = 0.0, {}, False
        with during or nullcontext():
            for response in responses:
                start = time.monotonic()
                _, reward, terminated, truncated, info = self.env.step(response)
                slowest = max(slowest, time.monotonic() - start)
                rewards.append(float(reward))
                done = terminated or truncated
                if done:
                    break
        self.played.append(Played(index, tuple(responses), prompt, tuple(rewards), info, done, slowest))
        return self.played[-1]


def transcript(env: Env[str, str], index: int, seed: int, responses: Iterable[str]) -> str:
    """Returns all observations, rewards and infos of an episode as one line of JSON, without durations."""
    turns: list[Any] = list(env.reset(seed=seed, options={"index": index}))
    for response in responses:
        *turn, info = env.step(response)
        turns += [*turn, info]
        if turn[2] or turn[3]:
            break
    return json.dumps(plain(turns), sort_keys=True)


def plain(value: object) -> Any:
    """Returns `value` in JSON's types. A value of any other type becomes its `repr`."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and _is_duration(value):
        return "a duration"
    if value is None or isinstance(value, str | bool | int | float):
        return value
    as_list = getattr(value, "tolist", None)  # numpy has types of its own
    return repr(value) if as_list is None else plain(as_list())


def _is_duration(value: float) -> bool:
    """Returns whether `value` is a `tgpo_ray.envs.Seconds`. Any two of them are equal."""
    kind = type(value)
    return kind is not float and kind(0.0) == kind(1.0)
