"""The ids and arguments with which a runner on any node makes its environments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.env_runners.registry import creator_of, located, make_env, registered_spec

if TYPE_CHECKING:
    from gymnasium import Env
    from gymnasium.envs.registration import EnvSpec as RegisteredSpec

    from tgpo_ray.config import AlgorithmConfig, EnvRunnersConfig


@dataclass(frozen=True)
class EnvSpec:
    """A gymnasium id and the keyword arguments of one environment. `module:Id-v0` is an id too."""

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    registered: RegisteredSpec | None = None  # gymnasium's own spec, where the driver's script registered the id

    def make(self) -> Env[str, str]:
        """Returns a new environment."""
        return make_env(self.id, self.kwargs, self.registered)


def all_envs(config: AlgorithmConfig) -> tuple[EnvSpec, ...]:
    """Returns the training environments, then those for evaluation. `Task.env_index` counts in this order."""
    kwargs = [env.kwargs for env in config.envs]
    kwargs += [{**env.kwargs, **config.evaluation.kwargs} for env in config.evaluation.envs]
    return tuple(
        EnvSpec(env.id, env_arguments(env.id, arguments, config.env_runners), registered_spec(env.id))
        for env, arguments in zip([*config.envs, *config.evaluation.envs], kwargs, strict=True)
    )


def env_arguments(env_id: str, kwargs: Mapping[str, Any], runners: EnvRunnersConfig) -> dict[str, Any]:
    """Returns the environment's arguments for a runner on any node.

    A `path` to a file or folder here becomes absolute. An environment whose constructor has `deadline_s` or
    `verify_workers` gets the runners' settings, unless its own `kwargs` set them.
    """
    settings = {"deadline_s": runners.verify_deadline_s, "verify_workers": runners.verifier_workers}
    known = _parameters(env_id)
    arguments = {name: value for name, value in settings.items() if name in known} | dict(kwargs)
    path = arguments.get("path")
    if isinstance(path, str) and Path(path).expanduser().exists():
        arguments["path"] = str(Path(path).expanduser().resolve())
    return arguments


def _parameters(env_id: str) -> Collection[str]:
    """Returns the argument names of an environment's constructor, and none for an unknown id.

    The attempt to make an unknown environment explains the problem.
    """
    import gymnasium

    try:
        module, _, name = located(env_id).rpartition(":")  # the import of the module registers the id
        if module:
            importlib.import_module(module)
        creator = creator_of(gymnasium.spec(name))
        return inspect.signature(creator).parameters if creator else ()
    except (gymnasium.error.Error, ImportError, ValueError):
        return ()
