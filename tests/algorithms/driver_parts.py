"""The driver's part of an algorithm without its actors: groups made by hand, methods called directly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tgpo_ray.config import AlgorithmConfig
from tgpo_ray.episode import EpisodeInfo, SampledGroup, Task

PATHS = {"model": {"path": "policy"}, "env": {"id": "tgpo/Arithmetic-v0"}}


def config_of(algorithm: str, /, **sections: Any) -> Any:
    """A configuration as YAML would give it; no model folder is looked at."""
    return AlgorithmConfig.from_dict({"algorithm": algorithm, "name": "run", **PATHS, **sections})


def without_actors(config: Any, *, iteration: int = 0) -> Any:
    """The algorithm of `config`, at this iteration, none of whose actors exist."""
    kind = config.get_algo_class()
    algorithm = kind.__new__(kind)
    algorithm.config, algorithm.iteration = config.resolved(gpus=False), iteration
    algorithm.sampled, algorithm.refused, algorithm.reference = [], [], None
    if hasattr(config, "guidance"):
        algorithm.schedule = config.guidance.build_schedule(config.training.num_iterations)
        algorithm.teachers = {}
    return algorithm


def sampled_group(rewards: Sequence[float], lengths: Sequence[int] | None = None, *, ordinal: int = 0) -> SampledGroup:
    """A group whose tokens do not exist. A reward above 0 is a right answer; the default length is 10."""
    infos = tuple(
        EpisodeInfo(reward, 5, length, length, "correct" if reward > 0 else "wrong", "stop", 1)
        for reward, length in zip(rewards, lengths or [10] * len(rewards), strict=True)
    )
    return SampledGroup(ordinal, Task(0, ordinal, 0, ordinal), infos, None)
