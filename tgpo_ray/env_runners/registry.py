"""Environments by id, from this package, from a module named in the id, and from installed packages.

gymnasium 1.0 and later read no entry points. Without them, an environment of an installed package is unknown until the
package is imported. This module reads both groups of entry points.

    [project.entry-points."tgpo_ray.envs"]
    "Reverse-v0" = "my_package.reverse:ReverseEnv"   # registered under this id, imported when it is made
    my_package = "my_package"                        # a module: imported, it registers what it has

    [project.entry-points."gymnasium.envs"]          # as gymnasium < 1.0 read it
    puzzles = "my_package:register_envs"             # called within the namespace `puzzles`; `__root__`: without one
"""

from __future__ import annotations

import contextlib
import difflib
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gymnasium import Env
    from gymnasium.envs.registration import EnvSpec

BUILT_IN_ENVS = "tgpo_ray.envs"
BUILT_IN_NAMESPACE = "tgpo/"
GROUP, GYMNASIUM_GROUP = "tgpo_ray.envs", "gymnasium.envs"
NO_NAMESPACE = "__root__"


def make_env(env_id: str, kwargs: Mapping[str, Any], registered: EnvSpec | None = None) -> Env[str, str]:
    """Returns the environment `env_id` from gymnasium. `module:Id-v0` imports the module first.

    Args:
        registered: gymnasium's spec of the id (see `registered_spec`), for processes that have not registered it.
    """
    import gymnasium

    if registered is not None:
        gymnasium.registry.setdefault(env_id, registered)
    return gymnasium.make(located(env_id), disable_env_checker=True, **kwargs)


def located(env_id: str) -> str:
    """Returns the id under which gymnasium finds the environment.

    `tgpo/...` gets its module in front. The environments of installed packages are registered first.
    """
    import gymnasium

    if env_id.startswith(BUILT_IN_NAMESPACE):
        return f"{BUILT_IN_ENVS}:{env_id}"
    if ":" not in env_id and env_id not in gymnasium.registry:
        load_plugins()
    return env_id


def registered_spec(env_id: str) -> EnvSpec | None:
    """Returns gymnasium's spec of an id that a script registered, or None for an id that every process finds."""
    import gymnasium

    return None if ":" in located(env_id) else gymnasium.registry.get(env_id)


@dataclass(frozen=True)
class Plugins:
    """The ids that installed packages registered, and {entry point: why it could not be loaded}."""

    ids: frozenset[str]
    problems: dict[str, str]


@functools.cache
def load_plugins() -> Plugins:
    """Returns the environments of installed packages, after registering them once a process.

    A broken package must not stop runs that do not use it.
    """
    import gymnasium

    before = set(gymnasium.registry)
    problems = {}
    for group, load in ((GROUP, _load_own), (GYMNASIUM_GROUP, _load_gymnasium)):
        for point in entry_points(group=group):
            try:
                load(point)
            except Exception as error:  # the import of a foreign package may raise anything
                problems[f"{group}: {point.name} = {point.value}"] = f"{type(error).__name__}: {error}"
    return Plugins(frozenset(gymnasium.registry) - before, problems)


def _load_own(point: EntryPoint) -> None:
    import gymnasium

    if not point.attr:
        point.load()
    elif point.name not in gymnasium.registry:
        gymnasium.register(point.name, entry_point=f"{point.module}:{point.attr}")


def _load_gymnasium(point: EntryPoint) -> None:
    from gymnasium.envs.registration import namespace

    within = contextlib.nullcontext() if point.name == NO_NAMESPACE else namespace(point.name)
    with within:
        register = point.load()
        if point.attr:  # without `attr` it is a module, whose import registers its environments
            register()


def listed_ids() -> list[str]:
    """Returns the ids of this package's environments and of those that installed packages declare."""
    import gymnasium

    importlib.import_module(BUILT_IN_ENVS)
    own = {env_id for env_id in gymnasium.registry if env_id.startswith(BUILT_IN_NAMESPACE)}
    return sorted(load_plugins().ids | own)


def creator_of(spec: EnvSpec) -> Callable[..., object] | None:
    """Returns the class or function that makes an environment. It imports a creator that is given as text."""
    from gymnasium.envs.registration import load_env_creator

    return load_env_creator(spec.entry_point) if isinstance(spec.entry_point, str) else spec.entry_point


def description(env_id: str) -> str:
    """Returns the first docstring line of an environment's class or function, or why it cannot be imported."""
    import gymnasium

    spec = gymnasium.registry[env_id]
    try:
        creator = creator_of(spec)
    except Exception as error:  # the import of a foreign module may raise anything
        return f"cannot be imported: {type(error).__name__}: {error}"
    return next(iter((creator.__doc__ or "").strip().splitlines()), "")


def argument_lines(env_id: str) -> list[str]:
    """Returns the arguments of an environment, each as a line with name, type and default, then its documentation.

    Only a class with the method `argument_texts` (`tgpo_ray.envs.TextEnv` has it) documents its arguments.
    """
    import gymnasium

    module, _, name = located(env_id).rpartition(":")
    if module:
        importlib.import_module(module)
    creator: Any = creator_of(gymnasium.spec(name))
    texts = getattr(creator, "argument_texts", dict)()
    lines: list[str] = []
    for parameter in inspect.signature(creator).parameters.values():
        # `from __future__ import annotations` leaves types as text, which `str(parameter)` would put in quotes
        kind = parameter.annotation if isinstance(parameter.annotation, str) else ""
        lines.append(str(parameter).replace(repr(kind), kind, 1) if kind else str(parameter))
        if texts.get(parameter.name):
            lines.append(f"    {texts[parameter.name]}")
    return lines


def explained(env_id: str, error: Exception) -> str:
    """Returns why an environment cannot be made or played, for people. An unknown id gets the nearest known one."""
    import gymnasium

    if not isinstance(error, gymnasium.error.UnregisteredEnv) and "No registered env" not in str(error):
        if isinstance(error, TypeError) and (misnamed := _wrong_argument(env_id, str(error))):
            return misnamed
        # environments explain themselves with these two errors, so the error's name would add nothing
        explains_itself = isinstance(error, ValueError | FileNotFoundError) and str(error)
        return str(error) if explains_itself else f"{type(error).__name__}: {error}"
    near = difflib.get_close_matches(env_id, list(gymnasium.registry), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    problems = load_plugins().problems.items()
    broken = "".join(f"; the package that declares {point} is broken: {why}" for point, why in problems)
    return f"no such environment is registered{hint} An id of your own is written my_module:MyEnv-v0{broken}"


_MISSING = re.compile(r"missing \d+ required (?:positional|keyword-only) arguments?: (.*?)(?: was raised from|$)")
_UNKNOWN = re.compile(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'")


def _wrong_argument(env_id: str, message: str) -> str:
    """Returns Python's TypeError about the arguments in `kwargs`, for people, or "" for another TypeError."""
    if missing := _MISSING.search(message):
        return f"kwargs lack {missing[1]}: the environment is not made without"
    if not (unknown := _UNKNOWN.search(message)):
        return ""
    known = _argument_names(env_id, unknown[1])
    near = difflib.get_close_matches(unknown[2], known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known) or 'none'}"
    return f"kwargs have the unknown argument {unknown[2]!r}: {hint}"


def _argument_names(env_id: str, class_name: str) -> list[str]:
    """Returns the argument names of the environment, and of the class to which it passes its own."""
    import gymnasium

    creator: Any = creator_of(gymnasium.registry[env_id.rpartition(":")[2]])
    takers = {creator, getattr(sys.modules.get(creator.__module__), class_name, creator)}
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = (item for taker in takers for item in inspect.signature(taker).parameters.values())
    return sorted({item.name for item in parameters if item.kind in kinds})
