"""A whole run: evaluate, iterate, checkpoint, report. A failure leaves metrics and checkpoints and ends all actors."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol

from tgpo_ray.checks import RunningAlgorithm, check_actors, check_start, refuse_failed
from tgpo_ray.cluster import absolute, join, name_of, root_cause, watched_head
from tgpo_ray.config import ConfigError
from tgpo_ray.driver.checkpoint_state import refuse_misfit
from tgpo_ray.driver.checkpoints import Checkpoints, without_damaged
from tgpo_ray.driver.resuming import changed_keys, folder_of, restore_newest, whole_checkpoints
from tgpo_ray.driver.run_folder import CONFIG_FILE, say
from tgpo_ray.driver.run_log import RunLog
from tgpo_ray.driver.saved_checkpoints import RunState, SavedCheckpoint, delete_others, next_session
from tgpo_ray.driver.signals import Notice, terminated_by_signal, uninterrupted
from tgpo_ray.driver.token_view import TokenView
from tgpo_ray.driver.way_on import way_on
from tgpo_ray.learners import LearnerError, LearnersRestartedError
from tgpo_ray.reporting import Progress, write_reports

if TYPE_CHECKING:
    from ray.train import Result

    from tgpo_ray.config import AlgorithmConfig
    from tgpo_ray.env_runners import EnvRunnerGroup
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.teachers import TeacherGroup

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

    def checkpoint_folders(self) -> list[str]: ...

    def restore(self, path: str) -> None: ...

    def recover(self, error: LearnersRestartedError) -> None: ...

    def stop(self) -> None: ...


def fit(
    config: AlgorithmConfig,
    *,
    resume: str | None = None,
    begin: str | None = None,
    env_runners: EnvRunnerGroup | None = None,
    teachers: Mapping[str, TeacherGroup] | None = None,
) -> Result:
    """Returns Ray Train's Result of the whole job: last metrics, last checkpoint, the run's folder.

    Args:
        resume: the folder or URI of an earlier run, which continues there from its last whole checkpoint; `auto`: the
            newest run of this name, or a new run where none has a checkpoint.
        begin: a checkpoint of another run. A new run goes on from it: weights, optimizer, problems and iteration.
        env_runners, teachers: ready groups to use, as in Algorithm. They keep running.

    Raises:
        ConfigError, ActorStartError: the run did not start. It leaves no folder.
        Exception: the error that ended the run. Its last checkpoint and metrics are in its folder.
    """
    check_start(config)
    with terminated_by_signal(config.fault_tolerance.grace_s) as notice:
        run = Run(config, resume, begin)
        try:
            algorithm = config.get_algo_class()(
                config, env_runners=env_runners, teachers=teachers, run_folder=run.folder.path, session=run.session
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
                run.close()


class Run:
    """The folder of one run, with everything that is written into it. No other process writes there until `close`."""

    def __init__(self, config: AlgorithmConfig, resume: str | None, begin: str | None = None) -> None:
        if resume and begin:
            raise ConfigError([f"--from {begin}: a resumed run has its own checkpoints: drop --from, or --resume"])
        config, self._begin = config.resolved(gpus=False), begin
        if begin:
            refuse_misfit(config, begin, "--from")
        self.folder, self.restored = folder_of(config, resume, say)
        self._whole: list[SavedCheckpoint] = []
        try:
            if self.restored:
                self._whole = whole_checkpoints(self.folder, self.restored, say)
                refuse_misfit(config, join(self.folder.path, self._whole[0].folders[0]))
        except BaseException:
            self.folder.close()
            raise
        self.session = next_session(self.folder.path, self.restored) if self.restored else 1
        self._state = self.restored or RunState(self.session, [])
        self._num_failed_evaluations = 0
        self._ending: Exception | None = None  # ends the run after the checkpoint of this iteration
        self._checkpoints: Checkpoints | None = None
        self._tokens: TokenView | None = None  # from the first iteration on that is shown

    def go(self, algorithm: Runnable, notice: Notice) -> Result:
        """The Result of the algorithm, run to its end, with the report in the folder.

        A notice that the process is to end soon leaves a checkpoint of the last whole iteration.
        """
        notice.can_save = lambda: algorithm.between_updates
        if self.restored:
            self._restore(algorithm)
        elif self._begin:
            algorithm.restore(self._begin)
            say(f"begins at iteration {algorithm.iteration} of {algorithm.num_iterations}, from {self._begin}")
        algorithm.config.to_yaml(self.folder.local / CONFIG_FILE)
        reporting = algorithm.config.reporting
        log = RunLog(self.folder.local, reporting, resume_after=algorithm.iteration or None)
        checkpoints = Checkpoints(self.folder, self._state, self.session, algorithm.config.checkpointing, say)
        self._checkpoints = checkpoints
        try:
            with Progress(
                algorithm.num_iterations, algorithm.config.name or "run", enabled=reporting.progress
            ) as progress:
                if algorithm.config.fault_tolerance.preflight:
                    progress.note(f"preflight: {refuse_failed(check_actors(algorithm))} checks passed")
                last = self._iterate(algorithm, checkpoints, log, progress, notice)
        except KeyboardInterrupt:
            if notice.given and algorithm.iteration > 0 and algorithm.between_updates:
                with notice.held(without_limit=True), suppress(LearnersRestartedError, LearnerError):
                    checkpoints.catch_up(algorithm)
            raise
        finally:
            log.close()
            self.folder.publish_or_keep(say)
        return self._result(last, checkpoints)

    def _restore(self, algorithm: Runnable) -> None:
        assert self.restored is not None
        for line in changed_keys(self.folder, algorithm.config):
            say(f"changed since the last session: {line}")
        found = restore_newest(algorithm, self.folder, self._whole, say)
        delete_others(self.folder.path, self.restored)  # halves, but not what is damaged: that goes with the next save
        self._state = without_damaged(self.restored, found, self._whole)
        say(f"resumed at iteration {found.iteration} of {algorithm.num_iterations}: {self.folder.path}")

    def discard_if_empty(self) -> None:
        """Removes the folder if it contains only Ray Train's empty one, so that a failed start leaves no trace."""
        self.folder.discard_if_empty()
        self.close()

    def close(self) -> None:
        """Gives the folder free. A second call is safe."""
        self.folder.close()

    @property
    def way_on(self) -> str:
        """What a run that has ended early says of its last checkpoint."""
        state = self._checkpoints.state if self._checkpoints else self._state  # also before a resumed run has begun
        return way_on(self.folder.path, state.last_in(self.folder.path))

    def _iterate(
        self, algorithm: Runnable, checkpoints: Checkpoints, log: RunLog, progress: Progress, notice: Notice
    ) -> Metrics:
        metrics: Metrics = {}
        evaluation = algorithm.config.evaluation
        if algorithm.iteration == 0 and evaluation.at_start and evaluation.envs:
            metrics = self._evaluate(algorithm, log)
            progress.update(algorithm.iteration, log.write(algorithm.iteration, metrics))
            self._end_if_asked()
        while algorithm.iteration < algorithm.num_iterations:
            notice.check()
            recoveries = algorithm.num_recoveries  # rises where `train` went back to a checkpoint
            metrics = algorithm.train()
            if algorithm.num_recoveries > recoveries:
                log.take_back(algorithm.iteration - 1)
            try:
                if evaluation.envs and _is_due(algorithm, evaluation.every, at_end=evaluation.at_end):
                    with notice.held():
                        metrics |= self._evaluate(algorithm, log)
                if self._ending or checkpoints.is_due(algorithm, metrics):
                    with notice.held(without_limit=True):
                        metrics |= checkpoints.write(algorithm, metrics)
            except LearnersRestartedError as error:  # they died after the update, which is in no checkpoint
                algorithm.recover(error)
                log.take_back(algorithm.iteration)
                continue
            except KeyboardInterrupt:  # the evaluation has outlasted the grace of a notice: the iteration counts
                log.write(algorithm.iteration, metrics)
                raise
            row = log.write(algorithm.iteration, metrics)
            self._show_samples(algorithm, log)
            checkpoints.record()
            progress.update(algorithm.iteration, row)
            self._end_if_asked()
        checkpoints.refuse_lost_end()
        return metrics

    def _show_samples(self, algorithm: Runnable, log: RunLog) -> None:
        """Keeps some of the iteration's episodes for the report, where it is one of those that are shown."""
        iteration, reporting = algorithm.iteration, algorithm.config.reporting
        if not reporting.shows(iteration, algorithm.num_iterations):
            return
        log.write_samples(algorithm.sampled[:2], iteration, "train")
        if reporting.token_episodes:
            self._tokens = self._tokens or TokenView(algorithm.config)
            learned = getattr(algorithm, "learned", {})  # methods that sample have it
            log.write_tokens(iteration, self._tokens.episodes(algorithm.sampled, learned, iteration))

    def _evaluate(self, algorithm: Runnable, log: RunLog) -> Metrics:
        """The metrics of an evaluation. One that raises is counted and shown, and what was learned goes on."""
        metrics: Metrics = {}
        try:
            metrics, groups = algorithm.evaluate()
            log.write_samples(groups, algorithm.iteration, "evaluation")
        except (LearnersRestartedError, LearnerError):  # the training itself
            raise
        except Exception as error:
            self._num_failed_evaluations += 1
            if algorithm.config.evaluation.on_failure == "end":
                self._ending = error
            say(f"WARNING: the evaluation of iteration {algorithm.iteration} failed: {root_cause(error)}")
        return metrics | {"evaluation/failures": float(self._num_failed_evaluations)}

    def _end_if_asked(self) -> None:
        if self._ending is not None:
            raise self._ending

    def _result(self, metrics: Mapping[str, Any], checkpoints: Checkpoints) -> Result:
        from ray.train import Checkpoint, Result

        folder = self.folder
        title = f"Run {name_of(folder.path)}"
        write_reports(folder.local / "report.html", [folder.local], title=title)
        folder.publish_or_keep(say)
        say(f"report: {join(folder.path, 'report.html')}")
        last = checkpoints.last
        checkpoint = Checkpoint(last) if last else None
        return Result(metrics=dict(metrics), checkpoint=checkpoint, error=None, path=absolute(folder.path))


def _is_due(algorithm: Runnable, every: int | None, *, at_end: bool) -> bool:
    """Whether this iteration ends with an evaluation, as every k-th and the last do."""
    if algorithm.iteration == algorithm.num_iterations:
        return at_end
    return every is not None and algorithm.iteration % every == 0
