"""Algorithms by name, as import paths. An algorithm is imported only when a configuration names it."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from tgpo_ray.config.errors import ConfigError
from tgpo_ray.config.run_config import RunConfig

NAMES = "tgpo_ray.algorithms:CONFIG_CLASSES"  # a path, because this package imports no algorithm


def import_object(path: str) -> Any:
    """Returns the object at `module:Name`; ImportError or AttributeError where there is none."""
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def known_algorithms() -> dict[str, str]:
    """Returns the import path of the config class of every method that `tgpo_ray.algorithms` lists, by name."""
    return import_object(NAMES)


def resolve_algorithm(algorithm: object) -> type[RunConfig]:
    """Returns the config class of an algorithm: a known name, `module:MyConfig` or `module:MyMethod`.

    A class other than a config must say `config_class = MyConfig`. ConfigError names the nearest known algorithm.
    """
    if not isinstance(algorithm, str):
        raise ConfigError([f"algorithm: expected a name or an import path, got {algorithm!r}"])
    path = known_algorithms().get(algorithm, algorithm)
    if ":" not in path:
        raise ConfigError([_unknown(algorithm)])
    try:
        target = import_object(path)
    except ModuleNotFoundError as error:
        raise ConfigError([f"algorithm: cannot import {path!r}: no module named {error.name!r}"]) from error
    except AttributeError as error:
        raise ConfigError([f"algorithm: cannot import {path!r}: {error}"]) from error
    return _config_class(target, path)


def _config_class(target: object, path: str) -> type[RunConfig]:
    config_class = getattr(target, "config_class", target)  # the target is the user's: a method or a config
    if not (isinstance(config_class, type) and issubclass(config_class, RunConfig)):
        raise ConfigError([f"algorithm: {path!r} is neither an AlgorithmConfig nor a class whose config_class is one"])
    return config_class


def _unknown(algorithm: str) -> str:
    by_lower = {name.lower(): name for name in known_algorithms()}
    near = difflib.get_close_matches(algorithm.lower(), by_lower, n=1, cutoff=0.5)
    hint = f"; did you mean {by_lower[near[0]]!r}?" if near else "."
    names = ", ".join(sorted(known_algorithms()))
    return f"algorithm: unknown {algorithm!r}{hint} Known: {names}, or an import path such as my_pkg.mod:MyConfig"
