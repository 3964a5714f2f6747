"""The check of environments and their prompts on the driver, before any actor starts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.env_runners import EnvSpec, explained, prompt_ids, why_refused

if TYPE_CHECKING:
    from gymnasium import Env

    from tgpo_ray.config import AlgorithmConfig
    from tgpo_ray.models import Tokenizer

LOOK_S = 5.0  # an environment may reset slowly; the runner checks the prompts that are left after this time
NUM_PROCEDURAL = 16
NUM_LONGEST = 8  # number of prompts that are tokenized: those with the most characters


def check_environments(config: AlgorithmConfig) -> None:
    """Raise an error for a missing file, a wrong column, an unknown id, or a prompt that is too long.

    Raises:
        ConfigError: the message names the environment, the cause and the fix.
    """
    from tgpo_ray.config import ConfigError
    from tgpo_ray.env_runners import all_envs

    keys = [f"envs.{i}" for i in range(len(config.envs))]
    keys += [f"evaluation.envs.{i}" for i in range(len(config.evaluation.envs))]
    specs = all_envs(config)
    tokenizer = _tokenizer(config) if specs else None
    problems = []
    for key, spec in zip(keys, specs, strict=True):
        try:
            problems += [f"{key} ({spec.id}): {problem}" for problem in _problems(spec, tokenizer, config)]
        except Exception as error:  # a user's environment may raise anything
            problems.append(f"{key} ({spec.id}): {explained(spec.id, error)}")
    if problems:
        raise ConfigError(problems)


def _tokenizer(config: AlgorithmConfig) -> Tokenizer | None:
    """Returns the policy's tokenizer, or None for a Hugging Face id that is not in the cache. Nothing is downloaded.

    Raises:
        ConfigError: the tokenizer in a folder is not readable.
    """
    from transformers import AutoTokenizer

    from tgpo_ray.config import ConfigError

    source = config.model.tokenizer or config.model.path
    local = Path(source).expanduser().is_dir()
    try:
        return AutoTokenizer.from_pretrained(
            source, trust_remote_code=config.model.trust_remote_code, local_files_only=True
        )
    except Exception as error:  # transformers raises OSError, ValueError, ImportError, and what its parsers raise
        if not local:
            return None
        key = "model.tokenizer" if config.model.tokenizer else "model.path"
        reason = str(error).strip().splitlines()[0]
        raise ConfigError([f"{key}: {source} has a tokenizer that cannot be read: {reason}"]) from error


def _problems(spec: EnvSpec, tokenizer: Tokenizer | None, config: AlgorithmConfig) -> Iterator[str]:
    """Yields a line if the longest prompt is too long, and one if the chat template rewrites earlier turns."""
    env = spec.make()
    try:
        prompts = _prompts(env, config.seed)
        role = _later_role(env)
    finally:
        env.close()
    if tokenizer is None:
        return
    limit = config.env_runners.max_prompt_tokens
    prompts.sort(key=lambda prompt: len(str(prompt[2].get("messages") or prompt[1])), reverse=True)
    lengths = [(len(prompt_ids(tokenizer, text, info)), index) for index, text, info in prompts[:NUM_LONGEST]]
    longest, index = max(lengths, default=(0, 0))
    if longest > limit:
        yield (
            f"problem {index} has a prompt of {longest} tokens, env_runners.max_prompt_tokens is {limit}: raise it "
            "(the model's context permitting) or leave such problems out of the data"
        )
    chats = (info["messages"] for _, _, info in prompts if info.get("messages") is not None)
    refusal = "" if role is None else next((why_refused(tokenizer, chat, role) for chat in chats), "")
    if refusal:
        yield refusal


def _later_role(env: Env[str, str]) -> str | None:
    """Returns the role in which the environment continues a chat; None if it does not continue, or states no role."""
    several = (getattr(env.unwrapped, "max_turns", None) or 1) > 1
    return getattr(env.unwrapped, "turn_role", None) if several else None


def _prompts(env: Env[str, str], seed: int) -> list[tuple[int, str, dict[str, Any]]]:
    """Returns (index, prompt, info) of the rows, or of some problems of a procedural environment."""
    count = getattr(env.unwrapped, "num_problems", None)
    prompts = []
    start = time.monotonic()
    for index in range(NUM_PROCEDURAL if count is None else count):
        prompt, info = env.reset(seed=seed, options={"index": index})
        prompts.append((index, prompt, info))
        if time.monotonic() - start > LOOK_S:
            break
    return prompts
