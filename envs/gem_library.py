"""Episodes of the `gem` package, played in a worker of the verifier pool.

A worker may be killed at any turn, and requests of several episodes reach it in any order. So each request carries the
whole episode: its seed and every action. A worker that holds the episode so far continues it. Any other plays it again
from the start. `gem` draws from the global generators, so they are seeded here, and their state is saved and restored
with the episode.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import random
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .verifiers.worker import load

SEEDS = 2**31  # gem's environments take seeds below this

Turn = tuple[str, float, bool, bool]
"""Observation, reward, terminated, truncated."""


@dataclass
class Played:
    """An episode as far as it has been played in this process."""

    environment: str
    kwargs: str
    seed: int
    env: Any
    generators: tuple[Any, Any]
    actions: list[str] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)  # the first is that of reset

    def goes_on_as(self, environment: str, kwargs: str, seed: int, actions: list[str]) -> bool:
        """True where this episode is the beginning of that one."""
        mine = (self.environment, self.kwargs, self.seed, self.actions)
        return mine == (environment, kwargs, seed, actions[: len(self.actions)])


_played: Played | None = None


def play(environment: str, kwargs: str, seed: int, actions: list[str], trail: str) -> dict[str, Any]:
    """The last turn of the episode, and its trail (a hash of the turns), which the next request brings along.

    Raises:
        RuntimeError: when the turns before the last differ from those that the policy saw (`trail`).
    """
    episode = _played
    assert episode is not None, "begin() runs before the deadline's clock"
    random.setstate(episode.generators[0])
    np.random.set_state(episode.generators[1])
    if not episode.turns:
        observation, info = episode.env.reset(seed=seed)
        episode.turns.append((_framed(observation, info), 0.0, False, False))
    for action in actions[len(episode.actions) :]:
        if episode.turns[-1][2] or episode.turns[-1][3]:
            break  # a replay that took another course may end early; the trail then differs
        observation, reward, terminated, truncated, info = episode.env.step(action)
        episode.actions.append(action)
        episode.turns.append((_framed(observation, info), float(reward), bool(terminated), bool(truncated)))
    episode.generators = (random.getstate(), np.random.get_state())
    if actions and (len(episode.actions) != len(actions) or _trail(episode.turns[:-1]) != trail):
        raise RuntimeError(f"{environment!r} is not the same every time: its seed does not decide its turns")
    return {"score": 0.0, "data": {"turn": episode.turns[-1], "trail": _trail(episode.turns)}}


def begin(environment: str, kwargs: str, seed: int, actions: list[str], trail: str) -> None:
    """Makes a fresh environment where this process does not hold the episode. No deadline counts it."""
    global _played
    if _played is not None and _played.goes_on_as(environment, kwargs, seed, actions):
        return
    if _played is not None:
        with contextlib.suppress(Exception):
            _played.env.close()
    random.seed(seed)
    np.random.seed(seed)
    env = made(environment, json.loads(kwargs))
    _played = Played(environment, kwargs, seed, env, (random.getstate(), np.random.get_state()))


play.before_deadline = begin  # pyright: ignore[reportFunctionMemberAccess]


def made(environment: str, kwargs: dict[str, Any]) -> Any:
    """The environment of `gem.make`'s id, or of `module:function`.

    Raises:
        ValueError: for another name.
        ImportError: when a package that is named is not installed.
    """
    gem, ids = _gem()
    if environment in ids:  # ids have colons too: `game:Wordle-v0-easy`
        return gem.make(environment, **kwargs)
    place, _, _ = environment.rpartition(":")
    hint = "" if gem else "; gem is not installed either: pip install gem-llm"
    if not place:
        raise ValueError(f"{environment!r} is neither an id of gem nor 'module:function'{hint}")
    try:
        return load(environment)(**kwargs)
    except ModuleNotFoundError as failure:
        raise ImportError(f"{environment!r} needs a package that is not installed: {failure.name}{hint}") from failure


def _gem() -> tuple[Any, Any]:
    """The package and its registry of ids, empty where it is not installed."""
    try:
        package = importlib.import_module("gem")
        importlib.import_module("gem.envs")  # registers the ids
        return package, importlib.import_module("gem.envs.registration").ENV_REGISTRY
    except ModuleNotFoundError:
        return None, {}


def _framed(observation: Any, info: Any) -> str:
    """The observation between the `prefix` and `suffix` of its info, as gem's own wrappers write it."""
    info = info if isinstance(info, dict) else {}
    text, suffix = f"{info.get('prefix', '')}{observation}", info.get("suffix", "")
    return f"{text}\n{suffix}" if suffix and not text.endswith("\n") else f"{text}{suffix}"


def _trail(turns: list[Turn]) -> str:
    return hashlib.blake2b(json.dumps(turns).encode(), digest_size=16).hexdigest()
