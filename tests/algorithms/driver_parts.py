"""The driver's part of an algorithm without its actors: methods are called directly."""

from __future__ import annotations

from typing import Any

from tgpo_ray.config import AlgorithmConfig

PATHS = {"model": {"path": "policy"}, "env": {"id": "tgpo/Arithmetic-v0"}}


def config_of(algorithm: str, /, **sections: Any) -> Any:
    """A configuration as YAML would give it; no model folder is looked at."""
    return AlgorithmConfig.from_dict({"algorithm": algorithm, "name": "run", **PATHS, **sections})


def without_actors(config: Any, *, iteration: int = 0) -> Any:
    """The algorithm of `config`, at this iteration, none of whose actors exist."""
    kind = config.get_algo_class()
    algorithm = kind.__new__(kind)
    algorithm.config, algorithm.iteration = config.resolved(gpus=False), iteration
    algorithm.sampling_iteration = iteration
    algorithm.sampled, algorithm.refused, algorithm.reference = [], [], None
    if hasattr(config, "guidance"):
        algorithm.schedule = config.guidance.build_schedule(config.training.num_iterations)
        algorithm.teachers = {}
    return algorithm
