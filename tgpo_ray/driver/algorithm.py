"""Algorithm, which starts the actors of a configuration, trains iteration by iteration and ends them all."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Protocol, TypeVar

import ray

from tgpo_ray import cluster
from tgpo_ray.checks import check_environments, check_models, left_out
from tgpo_ray.cluster import absolute, copy_folder
from tgpo_ray.config import AlgorithmConfig, check_resources
from tgpo_ray.driver.checkpoint_state import STATE_FILE, read_state, run_folder_of, state_text
from tgpo_ray.driver.evaluation import evaluate, sampling_seed
from tgpo_ray.driver.recovery import go_back, surviving_step
from tgpo_ray.driver.run_folder import announce
from tgpo_ray.driver.stage_times import StageTimes, with_rates
from tgpo_ray.driver.weight_sync import WeightSync
from tgpo_ray.env_runners import Cursor, EnvRunnerGroup, build_env_runners, check_same_envs
from tgpo_ray.episode import SampledGroup
from tgpo_ray.learners import LearnerGroup, LearnersRestartedError, build_learners
from tgpo_ray.models import local_model
from tgpo_ray.teachers import TeacherGroup

if TYPE_CHECKING:
    from ray.train import Result

Metrics = dict[str, float]


class ActorGroup(Protocol):
    """A group of actors that an algorithm starts, waits for and ends: runners, learners, teachers."""

    def wait_until_ready(self) -> None: ...

    def stop(self) -> None: ...


ConfigT = TypeVar("ConfigT", bound=AlgorithmConfig)
GroupT = TypeVar("GroupT", bound=ActorGroup)


class Algorithm(Generic[ConfigT]):
    """Base of all algorithms: actors, checkpoints, evaluation. A subclass defines `training_step`.

    `Algorithm[MyConfig]` has a `config` of that class. `env_runners`, `weights` and `cursor` exist where `has_runners`
    is true, which means that the algorithm samples or evaluates.

    Args:
        config: checked here, before Ray starts.
        env_runners, teachers: ready groups to use instead of new ones. `stop` leaves them running.
        run_folder: the folder of the checkpoints, by default `<checkpointing.storage_path>/<name>`.
        session: the number of this start of a run, counted from 1. Each start has its own checkpoint folder. The run
            deletes old checkpoints; None: there is no run, and the newest `checkpointing.keep` stay.
        with_runners: False starts no engines, for uses that need only the weights (export).

    Raises:
        ConfigError: a rule between keys is broken, a model or data file is missing, or the cluster is too small.
        ActorStartError: an engine did not start.
    """

    config_class: ClassVar[type[AlgorithmConfig]] = AlgorithmConfig

    has_runners: bool = False
    env_runners: EnvRunnerGroup
    weights: WeightSync
    cursor: Cursor

    def __init__(
        self,
        config: ConfigT,
        *,
        env_runners: EnvRunnerGroup | None = None,
        teachers: Mapping[str, TeacherGroup] | None = None,
        run_folder: str | None = None,
        session: int | None = None,
        with_runners: bool = True,
    ) -> None:
        config.check()
        check_models(config)
        # of each environment, the problems whose prompts are too long
        self.left_out: Sequence[Collection[int]] = left_out(config, check_environments(config))
        self.read_data(config)
        self._owns_ray = cluster.connect(config.ray)
        self.iteration, self.num_recoveries, self.session = 0, 0, session
        self.sampled: list[SampledGroup] = []  # the last iteration's groups, as they were trained on
        self.teachers: Mapping[str, TeacherGroup] = {}  # by name
        self.reference: TeacherGroup | None = None  # the frozen model of a KL term
        self.times = StageTimes()  # of the present iteration
        self._owned: list[ActorGroup] = []  # in the order of their starts
        try:
            check_resources(config, ray.cluster_resources(), cluster.node_resources())
            self.config = config.resolved(gpus=cluster.has_gpus())
            self.config.model.path = local_model(self.config.model.path)
            self.run_folder = run_folder or run_folder_of(self.config)
            if session is not None:
                announce(self.config, self.run_folder)
            check_same_envs(self.config, env_runners)
            self.learners = self._own(build_learners(self.config, self.run_folder, session))
            self._build(env_runners, teachers, with_runners=with_runners)
        except BaseException:
            self.stop()
            raise
        self._last_state, self._last_checkpoint = self.state_dict(), ""
        self._steps_before = self.num_steps  # at the end of the last iteration

    @classmethod
    def fit(cls, config: AlgorithmConfig) -> Result:
        """The Result of the whole job of `config`: iterations, evaluation, checkpoints, report. See `driver.fit`."""
        from tgpo_ray.driver.run import fit  # it imports this module

        return fit(config)

    def _build(
        self,
        env_runners: EnvRunnerGroup | None,
        teachers: Mapping[str, TeacherGroup] | None,
        *,
        with_runners: bool,
    ) -> None:
        """Starts all groups, then waits for them, so that the engines' start-ups overlap."""
        needs_runners = with_runners and (self.config.needs_envs or bool(self.config.evaluation.envs))
        if env_runners is None and needs_runners:
            env_runners = self._own(build_env_runners(self.config))
        self.build_scorers(teachers)
        for group in self._owned:
            group.wait_until_ready()
        if env_runners is not None:
            self._connect(env_runners)

    def _connect(self, env_runners: EnvRunnerGroup) -> None:
        """Gives the runners the learners' weights and sets the cursor to the first problem."""
        self.has_runners, self.env_runners = True, env_runners
        self.weights = WeightSync(self.learners, env_runners)
        self.weights.sync()
        rows = env_runners.num_problems[: len(self.config.envs)]  # held-out sets come after the training sets
        weights = [env.weight for env in self.config.envs]
        self.cursor = Cursor(rows, weights, self.config.seed, left_out=self.left_out[: len(rows)])

    def _own(self, group: GroupT) -> GroupT:
        self._owned.append(group)
        return group

    def _disown(self, group: ActorGroup) -> None:
        """Ends a group now, if it was started here."""
        if group in self._owned:
            self._owned.remove(group)
            group.stop()

    # ---- the parts that an algorithm defines

    def read_data(self, config: ConfigT) -> None:
        """Reads the files that the algorithm trains on, before Ray starts. Does nothing by default."""

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        """Starts the teachers that the algorithm needs, or takes the ready ones. Does nothing by default."""

    def training_step(self) -> Metrics:
        """Returns the metrics of one iteration, which goes from problems (or data) to updated weights."""
        raise NotImplementedError(f"{type(self).__name__} must define training_step() -> metrics")

    def train(self) -> Metrics:
        """Returns the metrics of one iteration. `tgpo_ray.reporting.METRICS` has their names.

        If learners die, everything goes back to the last checkpoint and continues from there.
        """
        start, self.times = time.monotonic(), StageTimes()
        metrics = surviving_step(self)
        self.iteration += 1
        self._steps_before = self.num_steps
        metrics |= {**self.times.metrics(), "recoveries": float(self.num_recoveries)}
        return with_rates(metrics, time.monotonic() - start)

    @property
    def learner_groups(self) -> list[LearnerGroup]:
        """Every group of learners that was started here: the policy's, and those that a method adds."""
        return [group for group in self._owned if isinstance(group, LearnerGroup)]

    @property
    def num_steps(self) -> int:
        """Updates that learners were asked for, of all groups."""
        return sum(group.num_steps for group in self.learner_groups)

    @property
    def between_updates(self) -> bool:
        """Whether the learners have the weights of the last whole iteration, so that a checkpoint may be made."""
        return self.num_steps == self._steps_before

    def sampling_seed(self, iteration: int) -> int:
        """The seed of the episodes of an iteration."""
        return sampling_seed(self.config.seed, iteration)

    def drop_rollouts(self) -> None:
        """Ends what is being sampled for later iterations, which sample it again. Does nothing by default."""

    # ---- around the iterations

    @property
    def num_iterations(self) -> int:
        """Iterations of the whole run. A method whose data decide overrides this."""
        if self.config.num_iterations is None:
            raise NotImplementedError(f"{type(self).__name__} must define num_iterations: training leaves it open")
        return self.config.num_iterations

    def evaluate(self) -> tuple[Metrics, list[SampledGroup]]:
        """Metrics of the held-out sets under `evaluation/`, and some of the groups.

        Raises:
            ValueError: the configuration has no `evaluation.envs`.
        """
        if not self.has_runners or not self.config.evaluation.envs:
            raise ValueError("evaluation.envs is empty: name at least one held-out environment to evaluate on")
        start = time.monotonic()
        self.before_evaluation()
        metrics, groups = evaluate(self.config, self.env_runners, self.sampling_seed(self.iteration) + 1, self.left_out)
        return metrics | {"time/evaluate_s": time.monotonic() - start}, groups

    def before_evaluation(self) -> None:
        """Prepares the runners. Does nothing by default: they have the newest weights after every iteration."""

    def state_dict(self) -> dict[str, Any]:
        """The driver's state that a restored run needs. Schedules follow from `iteration`."""
        return {
            "algorithm": self.config.algorithm,
            "iteration": self.iteration,
            "weights_version": self.weights.version if self.has_runners else 0,
            "cursor": self.cursor_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.iteration = state["iteration"]
        if self.has_runners and state["cursor"] is not None:  # None: saved by a run without runners
            self.load_cursor(state["cursor"])

    def cursor_state(self) -> dict[str, Any] | None:
        """The cursor of a checkpoint, or None without runners."""
        return self.cursor.state_dict() if self.has_runners else None

    def load_cursor(self, state: dict[str, Any]) -> None:
        self.cursor.load_state_dict(state)

    def save(self, path: str | None = None) -> str:
        """Returns the path of a new checkpoint in the run's folder, or of its copy at `path` (a folder or a URI)."""
        name = f"checkpoint_{self.iteration:06d}"
        if self.num_recoveries:  # the iteration may have been saved before it was taken back
            name += f"_{self.num_recoveries}"
        if not self._last_checkpoint.endswith(name):
            state = self.state_dict()
            self._last_checkpoint = self.learners.save(name, {STATE_FILE: state_text(self.config, state)})
            self._last_state = state  # after the save: one that fails is nothing to go back to
        if path is None:
            return self._last_checkpoint
        copy_folder(self._last_checkpoint, path)
        return absolute(path)

    def checkpoint_folders(self) -> list[str]:
        """The folders of the last checkpoint: its path, then those of other learner groups that belong to it."""
        return [self._last_checkpoint]

    def restore(self, path: str) -> None:
        """Restores a checkpoint: weights, optimizer, step, schedule, cursor and random state.

        Raises:
            ValueError: `path` is no checkpoint, or one of another algorithm.
        """
        path = absolute(path)
        state = read_state(path, self.config.algorithm)
        self.drop_rollouts()
        self.learners.load(path)
        self._last_state, self._last_checkpoint = state, path
        self.load_state_dict(state)
        if self.has_runners:
            self.weights.sync(state["weights_version"])

    def recover(self, error: LearnersRestartedError) -> None:
        """Goes back to the last checkpoint, or to the start, with every group of learners."""
        go_back(self, error, self._last_state)
        self._steps_before = self.num_steps

    def export(self, path: str, *, merge: bool = False) -> str:
        """Returns the policy's folder, which replaces a model alone: its adapters, or with `merge` the whole."""
        cluster.refuse_foreign_folder(path)
        self.learners.export(absolute(path), merge=merge)
        return absolute(path)

    def stop(self) -> None:
        """Ends every actor that was started here, and Ray if it was started here. Safe to call twice."""
        owned, self._owned = self._owned, []
        if self.has_runners:
            self.env_runners.weight_source = None  # its learners end here
        with ExitStack() as stack:  # if one fails to end, the others and Ray still do
            if self._owns_ray:
                self._owns_ray = False
                stack.callback(ray.shutdown)
            for group in owned:  # the last is stopped first
                stack.callback(group.stop)
            stack.callback(self.drop_rollouts)
