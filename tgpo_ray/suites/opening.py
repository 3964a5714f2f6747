"""A suite's file by name or path, and the user's own file that says where the sets are."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tgpo_ray.config import ConfigError, EvaluationEnvConfig, load_file
from tgpo_ray.suites.figures import ALL_SETS
from tgpo_ray.suites.suite_config import SuiteConfig

BUILT_IN = {"paper": Path(__file__).with_name("paper.yaml")}
DEFAULT_SETS = Path("suite.yaml")


def open_suite(
    name: str, overrides: Iterable[str] = (), *, places: str | None = None, only: Sequence[str] = ()
) -> SuiteConfig:
    """Returns the suite.

    Args:
        name: `paper`, or a YAML file.
        overrides: `key=value`, as for a run.
        places: a YAML file that maps names of sets to a path, to arguments of the environment (path, subset, split,
            columns, ...), or to null for a set that is left out. Or a folder that has the files. None: `suite.yaml` of
            the working folder, where there is one.
        only: the names of the sets to use. None: all.

    Raises:
        ConfigError: a wrong key or value, or an unknown set. The message has the fix.
    """
    path = Path(name)
    if not path.is_file():
        if name not in BUILT_IN:
            raise ConfigError([f"--suite: {name!r} is no file and none of the built-in suites: {', '.join(BUILT_IN)}"])
        path = BUILT_IN[name]
    overrides = list(overrides)
    suite = SuiteConfig.from_yaml(path, overrides)
    whole = SuiteConfig.from_yaml(path) if any(it.startswith("evaluation.envs") for it in overrides) else suite
    if problems := list(_unknown_sets(suite, whole)):
        raise ConfigError(problems, str(path))
    if only:
        suite.evaluation.envs = [_named(suite, label) for label in dict.fromkeys(only)]
    if places is None and DEFAULT_SETS.is_file() and DEFAULT_SETS.resolve() != path.resolve():
        places = str(DEFAULT_SETS)
    if places is not None:
        suite.evaluation.envs = placed(suite, places, refuse_unknown=not only)
    if lost := [label for label in only if label not in {env.label for env in suite.evaluation.envs}]:
        raise ConfigError([f"--only: {lost[0]} is null in {places}: give its file, or leave it out of --only"])
    return suite


def _unknown_sets(suite: SuiteConfig, whole: SuiteConfig) -> Iterator[str]:
    """Names of sets behind `means` and `published` that neither the suite nor its file without overrides has."""
    known = list(dict.fromkeys(env.label for env in [*suite.evaluation.envs, *whole.evaluation.envs]))
    if ALL_SETS in suite.means:
        yield f"means.{ALL_SETS}: is the mean that the table has anyway; give it another name"
    named = [(f"means.{mean}", name) for mean, names in suite.means.items() for name in names]
    named += [(f"published.{key}.scores", name) for key, it in suite.published.items() for name in it.scores]
    for where, name in named:
        if name not in known:
            yield f"{where}: no set is called {name!r}{_near(name, known)}; there is: {', '.join(known)}"


def _named(suite: SuiteConfig, label: str) -> EvaluationEnvConfig:
    known = {env.label: env for env in suite.evaluation.envs}
    if label not in known:
        raise ConfigError([f"--only: no set is called {label!r}{_near(label, known)}; there is: {', '.join(known)}"])
    return known[label]


def placed(suite: SuiteConfig, places: str, *, refuse_unknown: bool = True) -> list[EvaluationEnvConfig]:
    """Returns the suite's sets with the paths and columns of a file or folder of the user's."""
    root = Path(places).expanduser()
    mapping = _in_folder(suite, root) if root.is_dir() else load_file(places)
    folder = root if root.is_dir() else root.parent
    known = {env.label for env in suite.evaluation.envs}
    unknown = [name for name in mapping if name not in known]
    if unknown and refuse_unknown:
        raise ConfigError([f"no set is called {unknown[0]!r}{_near(unknown[0], known)}"], places)
    envs = []
    for env in suite.evaluation.envs:
        value = mapping.get(env.label, {})
        if value is None:
            continue
        kwargs = {"path": value} if isinstance(value, str) else value
        if not isinstance(kwargs, Mapping):
            raise ConfigError([f"{env.label}: expected a path, arguments of the environment, or null, got {value!r}"])
        envs.append(env.model_copy(update={"kwargs": {**env.kwargs, **_beside(folder, kwargs)}}))
    if not envs:
        raise ConfigError(["every set is left out: map at least one to its file"], places)
    return envs


def _in_folder(suite: SuiteConfig, folder: Path) -> dict[str, Any]:
    """Returns the files of a folder that bear the names that the suite has for them."""
    paths = {env.label: str(env.kwargs.get("path", "")) for env in suite.evaluation.envs}
    lacking = [name for name, path in paths.items() if path and not (folder / Path(path).name).is_file()]
    if lacking:
        names = ", ".join(f"{name} ({Path(paths[name]).name})" for name in lacking)
        raise ConfigError(
            [
                f"{folder} lacks the files of {names}: leave these sets out with --only, or map each set to its file "
                "in a suite.yaml (null: left out)"
            ]
        )
    return {name: str(folder.resolve() / Path(path).name) for name, path in paths.items() if path}


def _beside(folder: Path, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the arguments with a path that is relative to the file which names it."""
    path = kwargs.get("path")
    found = isinstance(path, str) and (folder / path).exists()
    return {**kwargs, "path": str((folder / str(path)).resolve())} if found else dict(kwargs)


def _near(name: str, known: Iterable[str]) -> str:
    by_lower = {it.lower(): it for it in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f"; did you mean {by_lower[close[0]]!r}?" if close else ""
