"""The driver's part of a checkpoint, a JSON file beside the learners' files, and the model that the checkpoint fits."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from typing import TYPE_CHECKING, Any

from tgpo_ray.cluster import absolute, join, read_text
from tgpo_ray.config import ConfigError
from tgpo_ray.costs import shape_of

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig

STATE_FILE = "algorithm.json"


def read_state(path: str, algorithm: str) -> dict[str, Any]:
    """Returns the driver's state in the checkpoint at `path`.

    Raises:
        ValueError: `path` is no checkpoint, or one of another algorithm.
    """
    try:
        state: dict[str, Any] = json.loads(read_text(join(path, STATE_FILE)))
    except FileNotFoundError:
        raise ValueError(f"{path} is not a checkpoint: it holds no {STATE_FILE}") from None
    if state["algorithm"] != algorithm:
        raise ValueError(f"{path} is a checkpoint of {state['algorithm']}, this is {algorithm}")
    return state


def state_text(config: AlgorithmConfig, state: dict[str, Any]) -> str:
    """Returns the content of the driver's file, of a resolved configuration."""
    return json.dumps(state | {"fits": what_fits(config)})


def run_folder_of(config: AlgorithmConfig) -> str:
    """Returns `<checkpointing.storage_path>/<name>` of a resolved configuration."""
    assert config.checkpointing.storage_path and config.name
    return join(absolute(config.checkpointing.storage_path), config.name)


def what_fits(config: AlgorithmConfig) -> dict[str, Any]:
    """Returns what a checkpoint of `config`, which is resolved, can be loaded into: `model`, `adapters`, `learners`.

    `model` has the widths and the numbers of parameters, or nothing where transformers does not know the architecture.
    """
    learners, lora = config.learners, config.model.lora
    numbers = _numbers_of(config.model.path, json.dumps(config.model.hf_overrides, sort_keys=True))
    ranks = learners.num_learners if learners.engine == "deepspeed" and learners.zero_stage > 0 else None
    adapters = {"rank": 0} if lora is None else lora.model_dump(exclude={"dropout"})
    return {
        "model": dict(numbers),
        "adapters": adapters,
        "learners": {"engine": learners.engine, "ranks of ZeRO": ranks},
    }


@cache
def _numbers_of(path: str, overrides: str) -> dict[str, float]:
    try:
        found = asdict(shape_of(path, json.loads(overrides)))
    except ConfigError:
        return {}
    return {name: float(value) for name, value in found.items() if name != "facts"}


def refuse_misfit(config: AlgorithmConfig, path: str, option: str = "--resume") -> None:
    """Raise an error, before any actor starts, for a model or learners that the checkpoint at `path` does not fit.

    Args:
        option: the command's, for the message.

    Raises:
        ConfigError: the message names what differs.
    """
    try:
        state = read_state(path, config.algorithm)
    except ValueError as error:
        raise ConfigError([f"{option}: {error}"]) from None
    saved, here = state.get("fits", {}), what_fits(config)
    problems = []
    keys = {
        "model": f"model.path: {config.model.path} has",
        "adapters": "model.lora: these adapters have",
        "learners": "learners: they have",
    }
    for part, subject in keys.items():
        there = saved.get(part) or {}
        different = [
            f"{name} {_text(value)} (checkpoint: {_text(there[name])})"
            for name, value in here[part].items()
            if name in there and there[name] != value
        ]
        if different:
            problems.append(
                f"{subject} {', '.join(different)}: the checkpoint {path} does not fit; go back to what it was written "
                "with, or start a run of another name"
            )
    if problems:
        raise ConfigError(problems)


def _text(value: object) -> str:
    return f"{value:,.12g}" if isinstance(value, float) else str(value)
