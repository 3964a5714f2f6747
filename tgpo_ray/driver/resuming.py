"""What a resumed run goes on from: the newest checkpoint that is whole, and the keys that have other values."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from tgpo_ray.cluster import join, root_cause
from tgpo_ray.config import ConfigError, load_yaml
from tgpo_ray.driver.run_folder import CONFIG_FILE, RunFolder, newest_run
from tgpo_ray.driver.saved_checkpoints import RunState, SavedCheckpoint
from tgpo_ray.learners import LearnerError

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig

AUTO = "auto"
Say = Callable[[str], None]


class Restorable(Protocol):
    """What can go on from a checkpoint. `Algorithm` can."""

    def restore(self, path: str) -> None: ...


def folder_of(config: AlgorithmConfig, resume: str | None, say: Say) -> tuple[RunFolder, RunState | None]:
    """Returns the run's folder, and what run.json says of an earlier run there. `config` must be resolved.

    Args:
        resume: None for a new run; `auto` for the newest run of this name with a checkpoint, or a new run where there
            is none; else the folder or URI of a run.

    Raises:
        ConfigError: there is nothing to continue at `resume`, or another process writes there.
    """
    assert config.checkpointing.storage_path and config.name  # `resolved` has filled them in
    storage, name = config.checkpointing.storage_path, config.name
    path = newest_run(storage, name) if resume == AUTO else resume
    if path is None:
        return RunFolder.new(storage, name, say), None
    folder = RunFolder.of_run(path, say)
    try:
        return folder, RunState.read(folder.path)
    except (ValueError, KeyError, TypeError) as error:
        folder.close()
        reason = f"its run.json cannot be read ({type(error).__name__}: {error}): name a checkpoint's own run"
        raise ConfigError([f"--resume: {path} cannot be continued: {reason}"]) from None


def whole_checkpoints(folder: RunFolder, state: RunState, say: Say) -> list[SavedCheckpoint]:
    """Returns the checkpoints whose files are all there with their sizes, newest first.

    Raises:
        ConfigError: none is.
    """
    whole, problems = [], []
    for saved in reversed(state.saved):
        problem = saved.problem(folder.path)
        if problem:
            problems.append(f"the checkpoint of iteration {saved.iteration} is damaged: {problem}")
        else:
            whole.append(saved)
    for problem in problems if whole else []:
        say(f"WARNING: {problem}; the one before it is taken")
    if not whole:
        raise ConfigError([f"--resume: {folder.path} has no whole checkpoint: {'; '.join(problems)}: start a new run"])
    return whole


def restore_newest(algorithm: Restorable, folder: RunFolder, whole: list[SavedCheckpoint], say: Say) -> SavedCheckpoint:
    """Returns the checkpoint that was restored: the first of `whole` that the learners could load.

    Raises:
        LearnerError: they could load none. The error is that of the newest.
    """
    first: LearnerError | None = None
    for saved in whole:
        try:
            algorithm.restore(join(folder.path, saved.folders[0]))
        except LearnerError as error:
            first = first or error
            say(f"WARNING: the checkpoint of iteration {saved.iteration} cannot be loaded: {root_cause(error)}")
        else:
            return saved
    assert first is not None
    raise first


def changed_keys(folder: RunFolder, config: AlgorithmConfig) -> Iterator[str]:
    """Yields `training.lr: 1e-05 -> 0.001` for each key that has another value than in the folder's configuration."""
    file = folder.local / CONFIG_FILE
    if not file.is_file():
        return
    before, after = (dict(_flat(values)) for values in (load_yaml(file.read_text()), config.to_dict()))
    for key in [*before, *(key for key in after if key not in before)]:
        old, new = (_text(values[key]) if key in values else "(none)" for values in (before, after))
        if old != new:
            yield f"{key}: {old} -> {new}"


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields each value with its dotted key, as an override writes it."""
    if isinstance(value, Mapping | list) and value:
        pairs = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in pairs:
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _text(value: object) -> str:
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
