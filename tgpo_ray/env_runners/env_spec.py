"""Environments as a runner on any node makes them: an id and its arguments."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.env_runners.registry import located, make_env, registered_spec

if TYPE_CHECKING:
    from gymnasium import Env
    from gymnasium.envs.registration import EnvSpec as RegisteredSpec

    from tgpo_ray.config import AlgorithmConfig, EnvRunnersConfig


@dataclass(frozen=True)
class EnvSpec:
    """One environment as a runner makes it: a gymnasium id (`module:Id-v0` works too) and its keyword arguments."""

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    registered: RegisteredSpec | None = None  # gymnasium's own spec, where the driver's script registered the id

    def make(self) -> Env[str, str]:
        return make_env(self.id, self.kwargs, self.registered)


def all_envs(config: AlgorithmConfig) -> tuple[EnvSpec, ...]:
    """Training environments, then those for evaluation: `Task.env_index` counts in this order."""
    return tuple(
        EnvSpec(env.id, env_arguments(env.id, env.kwargs, config.env_runners), registered_spec(env.id))
        for env in [*config.envs, *config.evaluation.envs]
    )


def env_arguments(env_id: str, kwargs: Mapping[str, Any], runners: EnvRunnersConfig) -> dict[str, Any]:
    """The environment's arguments as a runner on any node needs them.

    A `path` to a file or folder here is made absolute, and an environment whose constructor has `deadline_s` and
    `verify_workers` gets the runners' settings, unless its own `kwargs` say otherwise.
    """
    settings = {"deadline_s": runners.verify_deadline_s, "verify_workers": runners.num_verifier_workers}
    known = _parameters(env_id)
    arguments = {name: value for name, value in settings.items() if name in known} | dict(kwargs)
    path = arguments.get("path")
    if isinstance(path, str) and Path(path).expanduser().exists():
        arguments["path"] = str(Path(path).expanduser().resolve())
    return arguments


def _parameters(env_id: str) -> Collection[str]:
    """Names of the arguments of an environment's constructor; none where the id is unknown (making it says so)."""
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    try:
        module, _, name = located(env_id).rpartition(":")
        if module:
            importlib.import_module(module)
        creator = gymnasium.spec(name).entry_point
        creator = load_env_creator(creator) if isinstance(creator, str) else creator
        return inspect.signature(creator).parameters if creator else ()
    except (gymnasium.error.Error, ImportError, ValueError):
        return ()
