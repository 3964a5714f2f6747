"""The runs of a study on Ray Tune: each trial is one run, as many at a time as the cluster holds."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.cluster import Claim, ClaimedError, connect, has_gpus, join
from tgpo_ray.config import AlgorithmConfig, ConfigError, RayConfig
from tgpo_ray.driver import Trial, demand_of, reserving_nothing, run_trial
from tgpo_ray.studies.definition import StudyConfig
from tgpo_ray.studies.outcomes import (
    FAILED,
    FINISHED,
    RUNNING,
    TrialState,
    folder_of,
    outcomes,
    trial_folder,
    unfinished,
)
from tgpo_ray.studies.page import write_page
from tgpo_ray.studies.points import Point, preparations
from tgpo_ray.studies.schedulers import scheduler_of

if TYPE_CHECKING:
    from ray.tune import ResultGrid

PROGRAMS = {"tgpo-ray": ["-m", "tgpo_ray.cli"], "python": []}
TUNE = "tune"
# A run writes its own metrics, and Tune's writers would write them again. `verbose` does not stop its newer output.
TUNE_SETTINGS = {"TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1", "RAY_AIR_NEW_OUTPUT": "0"}
# Its warnings miss the files of those writers, and name another way to go on than the study's command. Two of its files
# say again, with a traceback, which runs failed.
TUNE_LOGGERS = {
    "ray.tune": logging.ERROR,
    "ray.tune.execution.tune_controller": logging.CRITICAL,
    "ray.tune.tune": logging.CRITICAL,
}
KEPT_IN_A_POPULATION = 10  # checkpoints: another member may be about to go on from one
Say = Callable[[str], None]


def prepare(study: StudyConfig, say: Say) -> None:
    """Run the commands whose files are not there. Those that need a cluster join the study's.

    Raises:
        RuntimeError: a command failed, or left no file.
    """
    environment = os.environ | ({"RAY_ADDRESS": study.address} if study.address else {})
    for path, line in preparations(study):
        if Path(path).expanduser().exists():
            continue
        say(f"prepares {path}: {line}")
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise ConfigError([f"prepare: {line!r} is no command line: {error}"]) from error
        command = [sys.executable, *PROGRAMS[words[0]], *words[1:]] if words[0] in PROGRAMS else words
        try:
            status = subprocess.run(command, env=environment, check=False).returncode
        except OSError as error:
            raise RuntimeError(f"prepare: {line!r} cannot be started: {error}") from error
        if status:
            raise RuntimeError(f"prepare: {line!r} ended with status {status}")
        if not Path(path).expanduser().exists():
            raise RuntimeError(f"prepare: {line!r} has not written {path}, which `creates` names")


def run_study(
    study: StudyConfig, configs: Mapping[str, AlgorithmConfig], *, whole: StudyConfig, retry: bool, say: Say
) -> None:
    """Prepare and run what is not finished, and write the page after each run.

    Args:
        study: what is run.
        configs: of every run by name.
        whole: what the page is of, which may have more variants.
        retry: also run those again that failed, from their last checkpoints.

    Raises:
        ConfigError: another process runs this study, or what was prepared is not what a run needs.
        RuntimeError: a preparation failed.
    """
    folder = folder_of(study)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        claim = Claim(str(folder), say)
    except ClaimedError as error:
        raise ConfigError([f"{error}: wait for its end, or give the study another `name`"]) from None
    try:
        prepare(study, say)
        for config in configs.values():
            config.check()
        todo = unfinished(study, str(folder), retry=retry)
        try:
            if todo:
                _tune(study, whole, configs, todo, retry, say)
        finally:
            write_page(whole, outcomes(whole, str(folder)), folder)
    finally:
        claim.release()


def most_at_once(demands: Sequence[Mapping[str, float]], cluster: Mapping[str, float], limit: int | None) -> int:
    """Returns the number of trials for Tune to have going: as many of the smallest as fit, at least 1.

    The trials themselves wait until their own actors fit, so this keeps only those apart that would wait in vain.
    """
    fitting = [
        min(int(cluster.get(kind, 0.0) / amount + 1e-6) for kind, amount in demand.items())
        for demand in demands
        if demand
    ]
    return max(1, min([max(fitting, default=1), len(demands), *([limit] if limit else [])]))


def _tune(
    study: StudyConfig,
    whole: StudyConfig,
    configs: Mapping[str, AlgorithmConfig],
    todo: Sequence[Point],
    retry: bool,
    say: Say,
) -> ResultGrid:
    import ray

    for name, value in TUNE_SETTINGS.items():
        os.environ.setdefault(name, value)
    for logger, level in TUNE_LOGGERS.items():
        logging.getLogger(logger).setLevel(level)
    owns_ray = connect(RayConfig(address=study.address, num_cpus=study.num_cpus))
    try:
        gpus = has_gpus()
        demands = [demand_of(configs[point.name], gpus=gpus) for point in todo]
        at_once = most_at_once(demands, ray.cluster_resources(), study.at_once)
        say(f"{len(todo)} of {len(configs)} runs are to be made, at most {at_once} at a time: {folder_of(study)}")
        places = [_place(point, configs[point.name]) for point in todo]
        return _tuner(study, whole, places, at_once, retry, say).fit()
    finally:
        if owns_ray:
            ray.shutdown()


def _place(point: Point, config: AlgorithmConfig) -> dict[str, Any]:
    """What Tune hands to a trial. The configuration is text, in which Tune looks for nothing to resolve."""
    return {"name": point.name, "values": dict(point.values), "config": json.dumps(config.to_dict())}


def _tuner(
    study: StudyConfig,
    whole: StudyConfig,
    places: Sequence[Mapping[str, Any]],
    at_once: int,
    retry: bool,
    say: Say,
) -> Any:
    """A new Tuner, or for a scheduler the one that was interrupted: it knows what it has seen of every run."""
    from ray import tune

    from tgpo_ray.studies.following import StudyCallback

    folder = folder_of(study)
    function = reserving_nothing(_trial_function(str(folder), os.getcwd(), study.pbt.every if study.pbt else None))
    told = json.dumps(study.model_dump(mode="json", exclude={"title", "notes", "at_once"}), sort_keys=True)
    experiment = hashlib.sha256(told.encode()).hexdigest()[:8]
    stored = join(str(folder), TUNE, experiment)
    keeps_state = study.asha is not None or study.pbt is not None
    if keeps_state and tune.Tuner.can_restore(stored):
        say(f"goes on with {stored}")
        return tune.Tuner.restore(stored, trainable=function, resume_unfinished=True, resume_errored=retry)
    return tune.Tuner(
        function,
        param_space={"point": tune.grid_search([dict(place) for place in places])},
        tune_config=tune.TuneConfig(
            scheduler=scheduler_of(study),
            max_concurrent_trials=at_once,
            trial_name_creator=lambda trial: trial.config["point"]["name"],
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name=experiment if keeps_state else f"{experiment}-{os.urandom(3).hex()}",
            storage_path=join(str(folder), TUNE),
            failure_config=tune.FailureConfig(max_failures=study.retries),
            callbacks=[StudyCallback(study, whole)],
            verbose=0,
        ),
    )


def _trial_function(folder: str, working_folder: str, every: int | None) -> Callable[[dict[str, Any]], None]:
    """The function that Tune calls for each trial, in a process of its own."""

    def run(values: dict[str, Any]) -> None:
        from ray import tune

        # a member that goes on from a better one has that one's point, and stays itself
        place = {**values["point"], "name": tune.get_context().get_trial_name()}
        run_point(place, folder, working_folder, every)

    return run


def run_point(
    place: Mapping[str, Any],
    folder: str,
    working_folder: str,
    every: int | None = None,
    run: Callable[[Trial], None] = run_trial,
) -> None:
    """Run one point of a study, and keep its record.

    Args:
        place: its name, its values, which a population may have changed since, and its configuration as JSON.
        every: iterations between checkpoints, for population-based training.
        run: runs a trial to its end.
    """
    records = trial_folder(folder, place["name"])
    before = TrialState.read(records)
    if before.state == FINISHED:
        return
    overrides = [f"{key}={json.dumps(value)}" for key, value in place["values"].items()]
    config = AlgorithmConfig.from_dict({**json.loads(place["config"]), "name": place["name"]}, overrides)
    if every is not None:
        config.checkpointing(every=every, keep=max(config.checkpointing.keep, KEPT_IN_A_POPULATION))
    state = TrialState(RUNNING, "", before.folder, before.attempts + 1)
    state.write(records)

    def note(run_folder: str) -> None:
        nonlocal state
        if run_folder != state.folder:
            state = replace(state, folder=run_folder)
            state.write(records)

    try:
        run(Trial(config.to_dict(), working_folder, by_checkpoint=every is not None, note=note))
    except Exception as error:
        replace(state, state=FAILED, reason=str(error)).write(records)
        raise
    replace(state, state=FINISHED).write(records)
