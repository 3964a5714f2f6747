"""A whole run: evaluate, iterate, checkpoint, report; whatever happens, metrics and checkpoints stay and actors end."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.checks import check_actors, refuse_failed
from tgpo_ray.cluster import absolute, copy_folder
from tgpo_ray.driver.evaluation import sample_rows
from tgpo_ray.learners import LearnersRestartedError
from tgpo_ray.reporting import JsonlWriter, MetricsWriter, Progress, load_run, open_writers, read_metrics, write_report

if TYPE_CHECKING:
    from ray.train import Result

    from tgpo_ray.config import AlgorithmConfig
    from tgpo_ray.driver import Algorithm, Metrics
    from tgpo_ray.env_runners import EnvRunnerGroup
    from tgpo_ray.teachers import TeacherGroup

RUN_FILE = "run.json"


def fit(
    config: AlgorithmConfig,
    *,
    resume: str | None = None,
    env_runners: EnvRunnerGroup | None = None,
    teachers: Mapping[str, TeacherGroup] | None = None,
) -> Result:
    """Run the job to its end and return Ray Train's Result: last metrics, last checkpoint, the run's folder.

    Args:
        resume: the folder of an earlier run, to continue from its last checkpoint, in the same folder.
        env_runners, teachers: ready groups to use, as Algorithm takes them; they are left running.

    Raises:
        ConfigError, ActorStartError: before anything was trained; no folder is left.
        Exception: whatever ended the run; its last checkpoint and metrics are on disk.
    """
    run = Run(config, resume)
    with _terminated_by_signal():
        try:
            algorithm = config.get_algo_class()(
                config, env_runners=env_runners, teachers=teachers, run_folder=str(run.folder), session=run.session
            )
        except BaseException:
            run.discard_if_empty()
            raise
        try:
            return run.go(algorithm)
        finally:
            with _uninterrupted():
                algorithm.stop()


class Run:
    """One run's folder and what is written into it."""

    def __init__(self, config: AlgorithmConfig, resume: str | None) -> None:
        storage = config.checkpointing.storage_path
        self.remote = storage if "://" in storage else None  # a URI: the folder lies here first, and is copied there
        self.restored = _read_run_file(resume) if resume else None
        if resume:
            self.folder = Path(resume).resolve()
        else:
            base = Path("runs") if self.remote else Path(storage).expanduser()
            self.folder = free_folder(base.resolve() / (config.resolved(gpus=False).name or "run"))
        self.session = self.restored["session"] + 1 if self.restored else 1
        self._seconds_before = 0.0
        self._tokens = 0.0
        self._checkpoint: str | None = None

    def go(self, algorithm: Algorithm) -> Result:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._restore(algorithm)
        algorithm.config.to_yaml(self.folder / "config.yaml")
        resume_after = algorithm.iteration if self.restored else None
        self._writers: list[MetricsWriter] = open_writers(
            algorithm.config.reporting, self.folder, resume_after=resume_after
        )
        self._samples = JsonlWriter(self.folder / "samples.jsonl")
        if resume_after is not None:
            self._samples.truncate_after(resume_after)
        self._start = time.monotonic()
        show = algorithm.config.reporting.progress
        try:
            with Progress(algorithm.num_iterations, algorithm.config.name, enabled=show) as progress:
                progress.note(f"run folder: {self.folder}")
                if algorithm.config.fault_tolerance.preflight:
                    progress.note(f"preflight: {refuse_failed(check_actors(algorithm))} checks passed")
                last = self._iterate(algorithm, progress)
        finally:
            for writer in [*self._writers, self._samples]:
                writer.close()
            self._publish()
        return self._result(last)

    def discard_if_empty(self) -> None:
        """Remove the folder where only Ray Train's empty one is in it: a failed start leaves no trace."""
        folders = [folder for folder in self.folder.glob("checkpoints*") if not any(folder.glob("[!.]*"))]
        if self.folder.is_dir() and len(folders) == len(list(self.folder.iterdir())):
            shutil.rmtree(self.folder)

    def _restore(self, algorithm: Algorithm) -> None:
        if self.restored:
            self._checkpoint = str(self.folder / self.restored["checkpoint"])
            algorithm.restore(self._checkpoint)
            rows = [
                row for row in read_metrics(self.folder / "metrics.jsonl") if row["iteration"] <= algorithm.iteration
            ]
            self._seconds_before = rows[-1].get("time/total_s", 0.0) if rows else 0.0
            self._tokens = rows[-1].get("tokens/total", 0.0) if rows else 0.0

    def _iterate(self, algorithm: Algorithm, progress: Progress) -> Metrics:
        metrics: Metrics = {}
        evaluation = algorithm.config.evaluation
        if algorithm.iteration == 0 and evaluation.at_start and evaluation.envs:
            metrics = self._evaluated(algorithm, {}, due=True)
            self._write(algorithm, metrics, progress)
        while algorithm.iteration < algorithm.num_iterations:
            recoveries = algorithm.num_recoveries
            metrics = algorithm.train()
            if algorithm.num_recoveries > recoveries:
                self._take_back(algorithm.iteration - 1)
            try:
                metrics = self._evaluated(algorithm, metrics, due=_is_due(algorithm, "evaluation"))
                if _is_due(algorithm, "checkpointing"):
                    metrics = self._saved(algorithm, metrics)
            except LearnersRestartedError as error:  # they died after the update: it is not in any checkpoint
                algorithm.recover(error)
                self._take_back(algorithm.iteration)
                continue
            self._write(algorithm, metrics, progress)
        return metrics

    def _evaluated(self, algorithm: Algorithm, metrics: Metrics, *, due: bool) -> Metrics:
        if not (due and algorithm.config.evaluation.envs):
            return metrics
        found, groups = algorithm.evaluate()
        for row in sample_rows(groups, algorithm.iteration, "evaluation"):
            self._samples.append(row)
        return metrics | found

    def _saved(self, algorithm: Algorithm, metrics: Metrics) -> Metrics:
        start = time.monotonic()
        self._checkpoint = algorithm.save()
        name = os.path.relpath(self._checkpoint, self.folder)  # relative: a run's folder may be moved
        state = {"checkpoint": name, "iteration": algorithm.iteration, "session": self.session}
        temporary = self.folder / f"{RUN_FILE}.tmp"
        temporary.write_text(json.dumps(state))
        temporary.replace(self.folder / RUN_FILE)
        return metrics | {"time/checkpoint_s": time.monotonic() - start}

    def _write(self, algorithm: Algorithm, metrics: Metrics, progress: Progress) -> None:
        self._tokens += metrics.get("tokens/response", 0.0)
        row = metrics | {
            "tokens/total": self._tokens,
            "time/total_s": self._seconds_before + time.monotonic() - self._start,
        }
        for writer in self._writers:
            writer.write(algorithm.iteration, row)
        every = algorithm.config.reporting.samples_every
        sampled = algorithm.sampled
        if sampled and (algorithm.iteration % every == 0 or algorithm.iteration in (1, algorithm.num_iterations)):
            for sample in sample_rows(sampled[:2], algorithm.iteration, "train"):
                self._samples.append(sample)
        progress.update(algorithm.iteration, row)

    def _take_back(self, iteration: int) -> None:
        """Learners went back to a checkpoint: rows of iterations that did not happen go."""
        for writer in [*self._writers, self._samples]:
            if isinstance(writer, JsonlWriter):
                writer.truncate_after(iteration)

    def _publish(self) -> None:
        if self.remote:
            copy_folder(str(self.folder), f"{self.remote}/{self.folder.name}")

    def _result(self, metrics: Mapping[str, Any]) -> Result:
        from ray.train import Checkpoint, Result

        report = write_report(self.folder / "report.html", [load_run(self.folder)], title=f"Run {self.folder.name}")
        print(f"report: {report}", flush=True)
        checkpoint = Checkpoint(self._checkpoint) if self._checkpoint else None
        return Result(metrics=dict(metrics), checkpoint=checkpoint, error=None, path=absolute(str(self.folder)))


def _is_due(algorithm: Algorithm, section: str) -> bool:
    """Whether this iteration ends with an evaluation or a checkpoint: every k-th does, and the last."""
    settings = getattr(algorithm.config, section)
    if algorithm.iteration == algorithm.num_iterations:
        return getattr(settings, "at_end", True)
    return settings.every is not None and algorithm.iteration % settings.every == 0


def free_folder(folder: Path) -> Path:
    """`folder`, or `folder-2`, `folder-3`, ... where that exists: an earlier run is never written over."""
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


@contextmanager
def _terminated_by_signal() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does, through `finally`: schedulers send it before they kill."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    names = ["Ctrl-C"]

    def interrupt(number: int, frame: Any) -> None:
        names.append(signal.Signals(number).name)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:  # Ray raises one of its own where it was waiting
        raise KeyboardInterrupt(names[-1]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave actors behind: clean-up is bounded in time anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
