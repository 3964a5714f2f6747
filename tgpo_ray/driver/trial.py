"""A whole run as a trial of Ray Tune.

The trial itself reserves nothing but a mebibyte of memory. Its run is a driver of its own, and the actors of the run
reserve their CPUs and GPUs as ever. Ray Train puts learners into a placement group of its own, so one placement group
for a whole trial is not possible: trials take turns to start instead.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.cluster import absolute, has_gpus, is_folder, join, local_path, turn_to_start
from tgpo_ray.config import AlgorithmConfig, dump_yaml, resource_plan
from tgpo_ray.driver.resuming import AUTO
from tgpo_ray.driver.saved_checkpoints import RunState
from tgpo_ray.driver.trial_process import TrialProcess, driver_environment

if TYPE_CHECKING:
    from ray.tune import Checkpoint

TRIALS = "trials"  # the folder of trials' outputs beside the runs
EVALUATION = "evaluation/"
POINTER = "run.json"
MEMORY = 2**20  # a trial must ask for something, and every node has this
CLAIMED, CLAIM_S = "which writes into it", 180.0
Report = Callable[[dict[str, float], "Checkpoint | None"], None]


class TrialError(RuntimeError):
    """A run that was a trial has failed. The message is the run's own."""


@dataclass(frozen=True)
class Trial:
    """What a trial runs.

    Attributes:
        config: `AlgorithmConfig.to_dict()`, with a name that no other trial has.
        working_folder: of relative paths.
        begin: a checkpoint of another trial's run to go on from; None: the run's own newest, or a new run.
        by_checkpoint: report only iterations that have a checkpoint, as population-based training needs.
        note: is called with the run's folder when it is known.
    """

    config: dict[str, Any]
    working_folder: str
    begin: str | None = None
    by_checkpoint: bool = False
    note: Callable[[str], None] = lambda folder: None


def trainable(config: AlgorithmConfig) -> Callable[[dict[str, Any]], None]:
    """Returns a trainable for `ray.tune.Tuner`, each trial of which is a whole run of `config`.

    Keys of `param_space` are keys of the run: `{"guidance.weight": tune.grid_search([0.1, 1.0])}`. Tune gets the rows
    of metrics.jsonl. A row between two evaluations has the figures of the last one, so that schedulers can use them.
    Rows before the first evaluation, where there are held-out sets, are not reported. A trial that is restored goes on
    from its run's last checkpoint.

    Raises:
        ConfigError: a rule between keys is broken.
    """
    plain, working_folder = config.check().to_dict(), os.getcwd()

    def run(values: dict[str, Any]) -> None:
        from ray import tune

        trial_id = str(tune.get_context().get_trial_id())
        run_trial(_trial_of(plain, values, trial_id, working_folder))

    return reserving_nothing(run)


def reserving_nothing(function: Callable[[dict[str, Any]], None]) -> Callable[[dict[str, Any]], None]:
    """Returns the trainable with what Tune reserves for it."""
    from ray import tune

    return tune.with_resources(function, {"memory": MEMORY})


def _trial_of(plain: Mapping[str, Any], values: Mapping[str, Any], trial_id: str, working_folder: str) -> Trial:
    # Tune draws numbers of numpy where the choice is of them
    overrides = [f"{key}={json.dumps(value, default=lambda number: number.item())}" for key, value in values.items()]
    config = AlgorithmConfig.from_dict(plain, overrides)
    config.name = f"{config.name or 'trial'}-{trial_id}"
    return Trial(config.to_dict(), working_folder)


def run_trial(trial: Trial) -> None:
    """Run a trial to its end, within a function that Ray Tune calls.

    Raises:
        TrialError: the run failed.
    """
    import ray
    from ray import tune

    own = {"checkpointing.storage_path": _storage(trial)}
    config = AlgorithmConfig.from_dict(trial.config, [f"{key}={json.dumps(value)}" for key, value in own.items()])
    config.reporting(progress=True)
    pointed = pointer_of(tune.get_checkpoint())
    if pointed and not belongs_to(pointed["folder"], str(config.name)):
        trial = replace(trial, begin=newest_checkpoint(pointed))
    demand = demand_of(config, gpus=has_gpus())
    context = ray.get_runtime_context()
    environment = driver_environment(context.gcs_address, context.runtime_env)
    folder = Path(trial.working_folder)
    folder = folder if folder.is_dir() else Path.cwd()

    def start(options: list[str]) -> TrialProcess:
        work = work_folder(own["checkpointing.storage_path"], str(config.name))
        (work / "config.yaml").write_text(dump_yaml(config.to_dict()), encoding="utf-8")
        with turn_to_start(demand):
            process = TrialProcess(work / "config.yaml", work / "output.txt", options, environment, folder)
            while not process.has_started:
                time.sleep(0.2)
        return process

    follow(trial, start, lambda row, checkpoint: tune.report(row, checkpoint=checkpoint), bool(config.evaluation.envs))


def follow(trial: Trial, start: Callable[[list[str]], TrialProcess], report: Report, evaluates: bool) -> None:
    """Start a run, report its rows, and wait for its end. Where `report` raises, as it does when Tune stops a trial,
    the run is ended.

    Raises:
        TrialError: the run failed.
    """
    options = ["--from", trial.begin] if trial.begin else ["--resume", AUTO]
    give_up = time.monotonic() + CLAIM_S
    while True:
        process = start(options)
        try:
            _report_rows(trial, process, report, evaluates)
        except BaseException:
            process.stop()
            raise
        status = process.process.wait()
        if status and CLAIMED in process.reason and time.monotonic() < give_up:
            time.sleep(5.0)  # the process of a trial that was killed is writing its last checkpoint
            continue
        if status:
            raise TrialError(process.reason)
        return


def _report_rows(trial: Trial, process: TrialProcess, report: Report, evaluates: bool) -> None:
    seen: dict[str, float] = {}
    for row in process.rows():
        folder = process.folder
        assert folder is not None  # the rows are in it
        trial.note(folder)
        numbers = {name: float(value) for name, value in row.items() if isinstance(value, int | float)}
        seen |= {name: value for name, value in numbers.items() if name.startswith(EVALUATION)}
        if evaluates and not seen:
            continue
        checkpoint = pointer_to(folder)
        saved = checkpoint["iteration"] if checkpoint else None
        if trial.by_checkpoint and saved != row["iteration"]:
            continue
        report(seen | numbers | {"iteration": int(row["iteration"])}, _as_checkpoint(checkpoint, process.output))


def demand_of(config: AlgorithmConfig, *, gpus: bool) -> dict[str, float]:
    """Returns the CPUs and GPUs of all actors of a run."""
    rows = resource_plan(config, gpus=gpus)
    sums = {"CPU": sum(row.count * row.cpus for row in rows), "GPU": sum(row.count * row.gpus for row in rows)}
    return {kind: amount for kind, amount in sums.items() if amount > 0}


def _storage(trial: Trial) -> str:
    """The absolute folder or URI of the runs; a relative one starts at the trial's working folder."""
    path = AlgorithmConfig.from_dict(trial.config).resolved(gpus=False).checkpointing.storage_path or "runs"
    if local_path(path) is None or Path(path).expanduser().is_absolute():
        return absolute(path)
    return join(trial.working_folder, path)


def work_folder(storage: str, name: str) -> Path:
    """Returns the folder of a trial's configuration and output: beside the runs, or for a URI on this machine."""
    folder = local_path(join(storage, TRIALS, name))
    if folder is None:
        return Path(tempfile.mkdtemp(prefix="tgpo-ray-trial-"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


# ---- checkpoints: Tune's is a file that names the run's own, which may be large


def pointer_to(folder: str) -> dict[str, Any] | None:
    """Returns what names the newest checkpoint of the run in `folder`, None before the first."""
    try:
        state = RunState.read(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not state.saved:
        return None
    return {"folder": folder, "checkpoint": state.last_in(folder), "iteration": state.saved[-1].iteration}


def pointer_of(checkpoint: Checkpoint | None) -> dict[str, Any] | None:
    """Returns what a checkpoint of Tune names."""
    if checkpoint is None:
        return None
    with checkpoint.as_directory() as folder:
        return json.loads(Path(folder, POINTER).read_text(encoding="utf-8"))


def _as_checkpoint(pointer: Mapping[str, Any] | None, output: Path) -> Checkpoint | None:
    """Tune's checkpoint, in a folder beside the trial's output: one for all rows, since `tune.report` copies it."""
    if pointer is None:
        return None
    from ray.tune import Checkpoint

    folder = output.with_name("pointer")
    folder.mkdir(exist_ok=True)
    (folder / POINTER).write_text(json.dumps(dict(pointer)), encoding="utf-8")
    return Checkpoint(folder)


def newest_checkpoint(pointer: Mapping[str, Any]) -> str:
    """Returns the checkpoint that is named, or the newest of that run where it has been replaced since."""
    if is_folder(pointer["checkpoint"]):
        return pointer["checkpoint"]
    newest = pointer_to(pointer["folder"])
    return newest["checkpoint"] if newest else pointer["checkpoint"]


def belongs_to(folder: str, name: str) -> bool:
    """Whether a run's folder is one of the trial with this name: `<name>` or `<name>-2`, ..."""
    found = Path(folder).name
    return found == name or (found.startswith(f"{name}-") and found.removeprefix(f"{name}-").isdigit())
