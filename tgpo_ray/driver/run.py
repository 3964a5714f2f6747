"""A whole run: evaluate, iterate, checkpoint, report. A failure leaves metrics and checkpoints and ends all actors."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tgpo_ray.checks import RunningAlgorithm, check_actors, refuse_failed
from tgpo_ray.cluster import absolute, copy_folder, watched_head
from tgpo_ray.driver.run_log import RunLog
from tgpo_ray.driver.signals import Notice, terminated_by_signal, uninterrupted
from tgpo_ray.driver.way_on import way_on
from tgpo_ray.learners import LearnerError, LearnersRestartedError
from tgpo_ray.reporting import Progress, load_run, write_report

if TYPE_CHECKING:
    from ray.train import Result

    from tgpo_ray.config import AlgorithmConfig
    from tgpo_ray.env_runners import EnvRunnerGroup
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.teachers import TeacherGroup

RUN_FILE = "run.json"
Metrics = dict[str, float]


class Runnable(RunningAlgorithm, Protocol):
    """The interface of an algorithm that a run needs. `Algorithm` has it."""

    num_recoveries: int
    sampled: list[SampledGroup]

    @property
    def num_iterations(self) -> int: ...

    @property
    def between_updates(self) -> bool: ...

    def train(self) -> Metrics: ...

    def evaluate(self) -> tuple[Metrics, list[SampledGroup]]: ...

    def save(self) -> str: ...

    def restore(self, path: str) -> None: ...

    def recover(self, error: LearnersRestartedError) -> None: ...

    def stop(self) -> None: ...


def fit(
    config: AlgorithmConfig,
    *,
    resume: str | None = None,
    env_runners: EnvRunnerGroup | None = None,
    teachers: Mapping[str, TeacherGroup] | None = None,
) -> Result:
    """Returns Ray Train's Result of the whole job: last metrics, last checkpoint, the run's folder.

    Args:
        resume: the folder of an earlier run, which continues there from its last checkpoint.
        env_runners, teachers: ready groups to use, as in Algorithm. They keep running.

    Raises:
        ConfigError, ActorStartError: the run did not start. It leaves no folder.
        Exception: the error that ended the run. Its last checkpoint and metrics are on disk.
    """
    run = Run(config, resume)
    with terminated_by_signal(config.fault_tolerance.grace_s) as notice:
        try:
            algorithm = config.get_algo_class()(
                config, env_runners=env_runners, teachers=teachers, run_folder=str(run.folder), session=run.session
            )
        except BaseException:
            run.discard_if_empty()
            raise
        try:
            with watched_head(lambda: run.way_on):
                return run.go(algorithm, notice)
        except BaseException as error:
            error.add_note(run.way_on)
            raise
        finally:
            with uninterrupted():
                algorithm.stop()


class Run:
    """The folder of one run, with everything that is written into it."""

    def __init__(self, config: AlgorithmConfig, resume: str | None) -> None:
        storage = config.checkpointing.storage_path
        self.remote = storage if "://" in storage else None  # a URI, to which the local folder is copied at the end
        self.restored = _read_run_file(resume) if resume else None
        if resume:
            self.folder = Path(resume).resolve()
        else:
            base = Path("runs") if self.remote else Path(storage).expanduser()
            self.folder = free_folder(base.resolve() / (config.resolved(gpus=False).name or "run"))
        self.session = self.restored["session"] + 1 if self.restored else 1
        self._checkpoint: str | None = None

    def go(self, algorithm: Runnable, notice: Notice) -> Result:
        """The Result of the algorithm, run to its end, with the report on disk.

        A notice that the process is to end soon leaves a checkpoint of the last whole iteration.
        """
        notice.can_save = lambda: algorithm.between_updates
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.restored:
            self._checkpoint = str(self.folder / self.restored["checkpoint"])
            algorithm.restore(self._checkpoint)
        algorithm.config.to_yaml(self.folder / "config.yaml")
        reporting = algorithm.config.reporting
        log = RunLog(self.folder, reporting, resume_after=algorithm.iteration if self.restored else None)
        try:
            with Progress(
                algorithm.num_iterations, algorithm.config.name or "run", enabled=reporting.progress
            ) as progress:
                progress.note(f"run folder: {self.folder}")
                if algorithm.config.fault_tolerance.preflight:
                    progress.note(f"preflight: {refuse_failed(check_actors(algorithm))} checks passed")
                last = self._iterate(algorithm, log, progress, notice)
        except KeyboardInterrupt:
            if notice.given and algorithm.iteration > 0 and algorithm.between_updates:
                with notice.held(without_limit=True), suppress(LearnersRestartedError, LearnerError):
                    self._save(algorithm)
            raise
        finally:
            log.close()
            self._publish()
        return self._result(last)

    def discard_if_empty(self) -> None:
        """Removes the folder if it contains only Ray Train's empty one, so that a failed start leaves no trace."""
        folders = [folder for folder in self.folder.glob("checkpoints*") if not any(folder.glob("[!.]*"))]
        if self.folder.is_dir() and len(folders) == len(list(self.folder.iterdir())):
            shutil.rmtree(self.folder)

    @property
    def way_on(self) -> str:
        """What a run that has ended early says of its last checkpoint."""
        return way_on(str(self.folder), self._checkpoint)

    def _iterate(self, algorithm: Runnable, log: RunLog, progress: Progress, notice: Notice) -> Metrics:
        metrics: Metrics = {}
        evaluation = algorithm.config.evaluation
        if algorithm.iteration == 0 and evaluation.at_start and evaluation.envs:
            metrics = _evaluate(algorithm, log)
            progress.update(algorithm.iteration, log.write(algorithm.iteration, metrics))
        while algorithm.iteration < algorithm.num_iterations:
            notice.check()
            recoveries = algorithm.num_recoveries  # rises where `train` went back to a checkpoint
            metrics = algorithm.train()
            if algorithm.num_recoveries > recoveries:
                log.take_back(algorithm.iteration - 1)
            try:
                if evaluation.envs and _is_due(algorithm, evaluation.every, at_end=evaluation.at_end):
                    with notice.held():
                        metrics |= _evaluate(algorithm, log)
                if _is_due(algorithm, algorithm.config.checkpointing.every):
                    with notice.held(without_limit=True):
                        metrics |= self._save(algorithm)
            except LearnersRestartedError as error:  # they died after the update, which is in no checkpoint
                algorithm.recover(error)
                log.take_back(algorithm.iteration)
                continue
            except KeyboardInterrupt:  # the evaluation has outlasted the grace of a notice: the iteration counts
                log.write(algorithm.iteration, metrics)
                raise
            row = log.write(algorithm.iteration, metrics)
            if _shows_samples(algorithm):
                log.write_samples(algorithm.sampled[:2], algorithm.iteration, "train")
            progress.update(algorithm.iteration, row)
        return metrics

    def _save(self, algorithm: Runnable) -> Metrics:
        start = time.monotonic()
        self._checkpoint = algorithm.save()
        name = os.path.relpath(self._checkpoint, self.folder)  # relative: a run's folder may be moved
        state = {"checkpoint": name, "iteration": algorithm.iteration, "session": self.session}
        temporary = self.folder / f"{RUN_FILE}.tmp"
        temporary.write_text(json.dumps(state))
        temporary.replace(self.folder / RUN_FILE)  # atomic: a crash leaves the old file or the new one
        return {"time/checkpoint_s": time.monotonic() - start}

    def _publish(self) -> None:
        if self.remote:
            copy_folder(str(self.folder), f"{self.remote}/{self.folder.name}")

    def _result(self, metrics: Mapping[str, Any]) -> Result:
        from ray.train import Checkpoint, Result

        report = write_report(self.folder / "report.html", [load_run(self.folder)], title=f"Run {self.folder.name}")
        print(f"report: {report}", flush=True)
        checkpoint = Checkpoint(self._checkpoint) if self._checkpoint else None
        return Result(metrics=dict(metrics), checkpoint=checkpoint, error=None, path=absolute(str(self.folder)))


def _evaluate(algorithm: Runnable, log: RunLog) -> Metrics:
    metrics, groups = algorithm.evaluate()
    log.write_samples(groups, algorithm.iteration, "evaluation")
    return metrics


def _is_due(algorithm: Runnable, every: int | None, *, at_end: bool = True) -> bool:
    """Whether this iteration ends with an evaluation or a checkpoint, as every k-th and the last do."""
    if algorithm.iteration == algorithm.num_iterations:
        return at_end
    return every is not None and algorithm.iteration % every == 0


def _shows_samples(algorithm: Runnable) -> bool:
    """Whether samples of this iteration go to the report, as those of the first, the last and every k-th do."""
    every = algorithm.config.reporting.samples_every
    return algorithm.iteration % every == 0 or algorithm.iteration in (1, algorithm.num_iterations)


def free_folder(folder: Path) -> Path:
    """`folder`, or the first of `folder-2`, `folder-3`, ... that does not exist, to keep earlier runs."""
    number, candidate = 1, folder
    while candidate.exists():
        number += 1
        candidate = folder.with_name(f"{folder.name}-{number}")
    return candidate


def _read_run_file(folder: str) -> dict[str, Any]:
    from tgpo_ray.config import ConfigError

    if not Path(folder).is_dir():
        raise ConfigError([f"--resume: no such folder: {folder}; a run prints its folder first"])
    try:
        return json.loads((Path(folder) / RUN_FILE).read_text())
    except FileNotFoundError:
        reason = f"it holds no {RUN_FILE}, so no checkpoint was finished: start a new run"
        raise ConfigError([f"--resume: {folder} cannot be continued: {reason}"]) from None
