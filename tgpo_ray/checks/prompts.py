"""The check of environments and their prompts on the driver, before any actor starts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

from tgpo_ray.env_runners import NO_TOKENS, OVERLONG_FIX, EnvSpec, explained, prompt_lengths, why_refused

from .models import local_tokenizer

if TYPE_CHECKING:
    from gymnasium import Env

    from tgpo_ray.config import AlgorithmConfig
    from tgpo_ray.models import Tokenizer

LOOK_S = 120.0  # an environment may reset slowly; the runner checks the prompts that are left after this time
NUM_PROCEDURAL = 16
NUM_AT_A_TIME = 1024  # prompts that are tokenized together


@dataclass
class Prompts:
    """What was measured of one environment's prompts."""

    key: str  # of the configuration, with the id
    limit: int  # env_runners.max_prompt_tokens
    num_problems: int | None  # to be sampled; None: procedural
    num_measured: int = 0
    empty: tuple[int, ...] = ()  # problems whose prompts have no token
    overlong: tuple[int, ...] = ()  # problems whose prompts have more than `limit` tokens
    longest: int = 0
    longest_problem: int = 0

    def add(self, indices: list[int], lengths: list[int]) -> None:
        """Take in the lengths of these problems' prompts."""
        self.num_measured += len(indices)
        self.empty += tuple(index for index, length in zip(indices, lengths, strict=True) if length == 0)
        self.overlong += tuple(index for index, length in zip(indices, lengths, strict=True) if length > self.limit)
        place = max(range(len(lengths)), key=lengths.__getitem__)  # the first of the longest
        if lengths[place] > self.longest:
            self.longest, self.longest_problem = lengths[place], indices[place]

    @property
    def overlong_text(self) -> str:
        """How many prompts are too long, by how much, and which."""
        return (
            f"{len(self.overlong)} of {self.num_measured} prompts have more than env_runners.max_prompt_tokens = "
            f"{self.limit} tokens, the longest {self.longest} (problem {self.longest_problem}), the first is problem "
            f"{self.overlong[0]}"
        )

    def problems(self, *, drop: bool) -> Iterator[str]:
        """Yields a line where a run would end at one of these prompts."""
        if self.empty:
            yield f"problem {self.empty[0]} ({len(self.empty)} in all): {NO_TOKENS}"
        if self.overlong and not drop:
            yield f"{self.overlong_text}: {OVERLONG_FIX}"
        elif self.overlong and len(self.overlong) == self.num_problems:
            yield f"{self.overlong_text}: nothing is left to sample; raise it (the model's context permitting)"


def check_environments(config: AlgorithmConfig) -> list[Prompts]:
    """Returns what was measured of each environment's prompts, in the order of `all_envs`.

    With `env_runners.overlong_prompts: drop` the run leaves the `overlong` ones of data sets out.

    Raises:
        ConfigError: for a missing file, a wrong column, an unknown id, or a prompt that is empty or too long. The
            message names the environment, the cause and the fix.
    """
    from tgpo_ray.config import ConfigError
    from tgpo_ray.env_runners import all_envs

    keys = [(f"envs.{i}", None) for i in range(len(config.envs))]
    keys += [(f"evaluation.envs.{i}", config.evaluation.max_problems) for i in range(len(config.evaluation.envs))]
    specs = all_envs(config)
    tokenizer = local_tokenizer("model", config.model, config) if specs else None
    drop = config.env_runners.overlong_prompts == "drop"
    measured, problems = [], []
    for (key, most), spec in zip(keys, specs, strict=True):
        where = f"{key} ({spec.id})"
        try:
            prompts, refusal = _looked_at(where, spec, tokenizer, config, most)
        except Exception as error:  # a user's environment may raise anything
            problems.append(f"{where}: {explained(spec.id, error)}")
            continue
        measured.append(prompts)
        problems += [f"{where}: {problem}" for problem in prompts.problems(drop=drop)]
        problems += [f"{where}: {refusal}"] if refusal else []
    if problems:
        raise ConfigError(problems)
    return measured


def left_out(config: AlgorithmConfig, measured: list[Prompts]) -> list[frozenset[int]]:
    """Returns the problems of each environment that the run leaves out, and prints how many they are."""
    if config.env_runners.overlong_prompts == "refuse":
        return [frozenset()] * len(measured)
    for prompts in measured:
        if prompts.overlong and prompts.num_problems is not None:
            print(f"{prompts.key}: {prompts.overlong_text}: left out", flush=True)
    return [frozenset(it.overlong if it.num_problems is not None else ()) for it in measured]


def _looked_at(
    where: str, spec: EnvSpec, tokenizer: Tokenizer | None, config: AlgorithmConfig, most: int | None
) -> tuple[Prompts, str]:
    """Returns the measures of its prompts, and why its conversations are refused, or "".

    Args:
        most: the number of its problems that are sampled; None: all.
    """
    env = spec.make()
    try:
        count = getattr(env.unwrapped, "num_problems", None)
        if count is not None and most is not None:
            count = min(count, most)
        prompts = Prompts(where, config.env_runners.max_prompt_tokens, count)
        refusal: str | None = None
        problems = _problems(env, config.seed, count)
        while batch := list(islice(problems, NUM_AT_A_TIME)):
            if tokenizer is None:  # nothing to measure with: the first problems show whether there are any
                break
            lengths = prompt_lengths(tokenizer, [(text, info) for _, text, info in batch])
            prompts.add([index for index, _, _ in batch], lengths)
            chats = [info["messages"] for _, _, info in batch if info.get("messages") is not None]
            role = _later_role(env)
            if refusal is None and chats and role is not None:
                refusal = why_refused(tokenizer, chats[0], role)
    finally:
        env.close()
    return prompts, refusal or ""


def _problems(env: Env[str, str], seed: int, count: int | None) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """Yields (index, prompt, info) of the rows, or of some problems of a procedural environment."""
    until = time.monotonic() + LOOK_S
    for index in range(NUM_PROCEDURAL if count is None else count):
        prompt, info = env.reset(seed=seed, options={"index": index})
        yield index, prompt, info
        if time.monotonic() > until:
            return


def _later_role(env: Env[str, str]) -> str | None:
    """Returns the role in which the environment continues a chat; None if it does not continue, or states no role."""
    several = (getattr(env.unwrapped, "max_turns", None) or 1) > 1
    return getattr(env.unwrapped, "turn_role", None) if several else None
