"""What became of each run of a study: its record in the study's folder, and the rows of its own folder."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tgpo_ray.cluster import is_file, join, read_text, write_text
from tgpo_ray.config import AlgorithmConfig, ConfigError, load_yaml
from tgpo_ray.driver import TRIALS
from tgpo_ray.reporting import RunRecord, load_run
from tgpo_ray.studies.definition import AVERAGE, StudyConfig
from tgpo_ray.studies.points import Point, points

RUNS = "runs"
RECORD = "trial.json"
NOT_STARTED, RUNNING, FINISHED, FAILED, STOPPED = "not started", "running", "finished", "failed", "stopped"
OWN_KEYS = ("name", "checkpointing", "reporting", "ray")  # of a run, which do not change what it learns


@dataclass(frozen=True)
class TrialState:
    """What a trial leaves in its record.

    Attributes:
        state: running, finished, failed, or stopped by a scheduler.
        reason: why it failed.
        folder: of its run.
        attempts: the times it was started.
    """

    state: str = NOT_STARTED
    reason: str = ""
    folder: str = ""
    attempts: int = 0

    def write(self, folder: str) -> None:
        write_text(join(folder, RECORD), json.dumps(asdict(self), indent=1))

    @staticmethod
    def read(folder: str) -> TrialState:
        """Returns the record in a trial's folder, that of a trial which was not started where there is none."""
        path = join(folder, RECORD)
        if not is_file(path):
            return TrialState()
        try:
            return TrialState(**json.loads(read_text(path)))
        except (ValueError, TypeError) as error:
            raise ConfigError([f"{path} is damaged ({error}): delete it, and the run begins anew"]) from error


@dataclass(frozen=True)
class Outcome:
    """One run of a study, with its rows as far as it got."""

    point: Point
    trial: TrialState
    record: RunRecord | None
    averages: Mapping[str, Sequence[str]] = field(default_factory=dict)

    @property
    def counts(self) -> bool:
        """Whether the run is in means and comparisons: it has finished."""
        return self.trial.state == FINISHED and self.record is not None

    def series(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
        """(n,) iterations and (n,) values of a metric; an average is there where all its parts are."""
        empty = np.array([], np.float64)
        if self.record is None:
            return empty, empty
        parts = self.averages.get(metric.removeprefix(AVERAGE)) if metric.startswith(AVERAGE) else None
        if parts is None:
            return self.record.series(metric)
        found = [dict(zip(*self.record.series(part), strict=True)) for part in parts]
        iterations = sorted(set(found[0]).intersection(*found[1:]))
        return np.array(iterations), np.array([np.mean([each[i] for each in found]) for i in iterations])

    def last(self, metric: str) -> float | None:
        """Returns the last value, None where the run never had one."""
        values = self.series(metric)[1]
        return float(values[-1]) if len(values) else None

    @property
    def num_iterations(self) -> int:
        return self.record.num_iterations if self.record else 0


def folder_of(study: StudyConfig) -> Path:
    """Returns the absolute folder of a study."""
    return Path(study.storage_path).expanduser().absolute() / study.name


def trial_folder(folder: str, name: str) -> str:
    """Returns the folder of a run's record, configuration and output, in that of the study."""
    return join(folder, RUNS, TRIALS, name)


def outcomes(study: StudyConfig, folder: str) -> list[Outcome]:
    """Returns what there is of every run of the study in its folder."""
    return [_outcome(study, folder, point) for point in points(study)]


def unfinished(study: StudyConfig, folder: str, *, retry: bool = False) -> list[Point]:
    """Returns the runs that are still to be made. Those that a scheduler stopped are done, and so are failed ones
    without `retry`."""
    done = {FINISHED, STOPPED} | (set() if retry else {FAILED})
    return [point for point in points(study) if TrialState.read(trial_folder(folder, point.name)).state not in done]


def _outcome(study: StudyConfig, folder: str, point: Point) -> Outcome:
    trial = TrialState.read(trial_folder(folder, point.name))
    places = [trial.folder, join(folder, RUNS, point.name)]  # the second where the study's folder was moved
    there = [place for place in places if place and Path(place, "metrics.jsonl").exists()]
    record = load_run(there[0], label=point.cell) if trial.folder and there else None
    return Outcome(point, trial, record, study.averages)


def refuse_changed(study: StudyConfig, configs: Mapping[str, AlgorithmConfig], folder: str) -> None:
    """Raise an error where a run in the study's folder was started with other keys than it would have now.

    Raises:
        ConfigError: a line for each such run, with its keys.
    """
    problems = []
    drawn = {*study.search, *study.pbt.mutate} if study.pbt else set()  # a member may have taken over another's
    for point in points(study):
        path = join(trial_folder(folder, point.name), "config.yaml")
        if not is_file(path):
            continue
        before, now = _learned(load_yaml(read_text(path))), _learned(configs[point.name].to_dict())
        changed = sorted(key for key in {*before, *now} - drawn if before.get(key) != now.get(key))
        if changed:
            keys = ", ".join(f"{key} {before.get(key)!r} -> {now.get(key)!r}" for key in changed[:3])
            problems.append(
                f"{point.name}: was started with other keys ({keys}): give the study another `name`, or delete "
                f"{trial_folder(folder, point.name)} and its run"
            )
    if problems:
        raise ConfigError(problems)


def _learned(data: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in _flat(data) if key.split(".")[0] not in OWN_KEYS}


def _flat(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        return [pair for key, item in value.items() for pair in _flat(item, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix, value)]
