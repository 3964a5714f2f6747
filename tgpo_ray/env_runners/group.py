"""EnvRunnerGroup, a pool of EnvRunner actors that samples groups of episodes and survives the death of actors."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayTaskError

from tgpo_ray.cluster import ACTOR_ERRORS, actor, actor_of_driver, kill, lost_in_start, root_cause, wait_until_started
from tgpo_ray.env_runners.runner import EnvRunner
from tgpo_ray.env_runners.runner_spec import EnvRunnerSpec
from tgpo_ray.env_runners.sampling_session import Order, SamplingSession
from tgpo_ray.env_runners.task_queue import TaskQueue
from tgpo_ray.episode import SampledGroup, Task
from tgpo_ray.models import (
    Sampling,
    TransferNotBegunError,
    WeightTransfer,
    WeightTransferError,
    WeightUpdate,
    engine_environment,
)

if TYPE_CHECKING:
    from tgpo_ray.teachers import Prefixes

POLL_S = 1.0
BROKEN_TRANSFER_S = 30.0  # after a failure, for the other engines of a transfer to notice it

# Gives runners, named by their Ray ids, the current weights: yields (version, update), and ends when they are sent.
WeightSource = Callable[[Sequence[str]], AbstractContextManager[tuple[int, WeightUpdate]]]


class EnvRunnerGroup:
    """A pool of EnvRunners with one `sample`.

    Args:
        spec: settings of each runner.
        num_env_runners: number of EnvRunner actors.
        num_cpus, num_gpus: Ray resources of one runner.
        max_restarts: number of runner deaths that the group survives in all.
        start_timeout_s, sample_timeout_s: seconds that a start, and the wait for any next group, may take.
    """

    def __init__(
        self,
        spec: EnvRunnerSpec,
        num_env_runners: int = 1,
        *,
        num_cpus: float = 1.0,
        num_gpus: float = 0.0,
        max_restarts: int = 10,
        start_timeout_s: float = 600.0,
        sample_timeout_s: float = 600.0,
    ) -> None:
        self.spec = spec
        self._options: dict[str, Any] = {
            "num_cpus": num_cpus,
            "num_gpus": num_gpus,
            "runtime_env": {"env_vars": engine_environment(gpu=spec.gpu)},
            "concurrency_groups": {"control": 1},  # calls that reach a runner while it samples
        }
        self._restarts_left = max_restarts
        self._start_timeout_s, self.sample_timeout_s = start_timeout_s, sample_timeout_s
        self.num_restarts = 0
        self.weights_version = 0
        self.weight_source: WeightSource | None = None  # None: a runner that restarts waits for the next sync
        self.prefixes: Prefixes | None = None  # teacher-written beginnings of responses; None: the policy writes all
        self.runners = [self._start() for _ in range(num_env_runners)]
        self._ready = False
        self._num_problems: list[int | None] = []
        self.queue: Any = None  # the TaskQueue, from the first session on
        self._session: SamplingSession | None = None
        self._num_sessions = 0
        self.busy_s = 0.0
        self.num_overlong = 0  # groups so far that were not sampled, because their prompts were too long

    def _start(self) -> Any:
        return actor(EnvRunner, self.spec, **self._options)

    def wait_until_ready(self) -> None:
        """Block until every runner has its engine.

        Raises:
            ActorStartError: vLLM or an environment did not come up. The message has the cause.
        """
        if not self._ready:
            try:
                wait_until_started(self.runners, "EnvRunner", self._hint, self._start_timeout_s)
            except BaseException:
                self.stop()
                raise
            self._ready = True
            self._num_problems = ray.get(self.runners[0].num_problems.remote())

    @property
    def _hint(self) -> str:
        engine = self.spec.engine
        memory = engine.kv_cache_memory
        cache = "what its share of the card leaves" if memory is None else f"{memory / 2**20:.0f} MiB"
        return (
            f"It loads model {engine.model!r} into vLLM with a KV cache of {cache} and a context of "
            f"{engine.max_model_len} tokens"
        )

    @property
    def num_problems(self) -> list[int | None]:
        """The number of problems of each environment in `spec.envs`, None where it is unlimited."""
        self.wait_until_ready()
        return self._num_problems

    @property
    def members(self) -> tuple[str, ...]:
        """The Ray id of each runner, as a `WeightTransfer` names them. A runner that restarts gets another one."""
        return self._members(range(len(self.runners)))

    def _members(self, indices: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.runners[index]._actor_id.hex() for index in indices)

    def sync_weights(self, version: int, update: WeightUpdate) -> None:
        """Load these weights into every runner under this version. A runner that dies gets those of `weight_source`.

        Raises:
            TimeoutError: a runner needs longer than `sample_timeout_s`.
            WeightTransferError: the learners cannot send, or an engine cannot load.
            RuntimeError: more runners died than `max_restarts`.
        """
        self.wait_until_ready()
        self.weights_version = version
        failures = self._load(range(len(self.runners)), version, update)
        if failures:
            self._replace_all(failures)

    def sleep(self) -> None:
        """With `env_runners.sleep`, have every engine leave its card until `sync_weights`, which replaces dead ones."""
        for call in [runner.sleep.remote() for runner in self.runners] if self.spec.engine.sleep else ():
            with contextlib.suppress(*ACTOR_ERRORS):
                ray.get(call, timeout=self.sample_timeout_s)

    def _load(self, indices: Iterable[int], version: int, update: WeightUpdate) -> dict[int, BaseException]:
        """Returns the errors of the runners that did not get the weights, by index. All load at the same time."""
        pending = {self.runners[index].sync_weights.remote(version, update): index for index in indices}
        failures: dict[int, BaseException] = {}
        transfer = update if isinstance(update, WeightTransfer) else None
        end, broken = time.monotonic() + self.sample_timeout_s, None
        while pending:
            for ref in ray.wait(list(pending), timeout=POLL_S)[0]:
                index = pending.pop(ref)
                try:
                    ray.get(ref)
                except (*ACTOR_ERRORS, RayTaskError) as error:
                    if transfer is None and isinstance(error, RayTaskError):
                        raise
                    failures[index] = error
                    if transfer is not None:
                        transfer.fail(f"an EnvRunner has failed: {root_cause(error)}")
            if transfer is not None and broken is None and (reason := transfer.failure()):
                # a collective that has lost a member may never return
                broken, end = WeightTransferError(reason), min(end, time.monotonic() + BROKEN_TRANSFER_S)
            if pending and time.monotonic() > end:
                if broken is None:
                    raise TimeoutError(
                        f"EnvRunners did not load their weights within {self.sample_timeout_s:.0f} s "
                        "(fault_tolerance.sample_timeout_s)"
                    )
                return failures | dict.fromkeys(pending.values(), broken)
        return failures

    def sample(
        self,
        tasks: Sequence[Task],
        group_size: int,
        sampling: Sampling,
        seed: int,
        *,
        keep: Callable[[SampledGroup], bool] | None = None,
        more: Callable[[int], Sequence[Task]] | None = None,
        max_rounds: int = 10,
    ) -> Iterator[SampledGroup]:
        """Yields one group a task as the groups finish, each exactly once.

        Runners draw tasks as their engines have room, so a slow one holds back its own groups only. A runner that dies
        restarts with the current weights, and its unfinished tasks are sampled again.

        Args:
            seed: the tokens of a group follow from it, the weights and the task (see `EnvRunner.sample`).
            keep: returns whether to yield a group. In the next round, as many tasks from `more` replace the refused
                groups and take over their ordinals. A round begins after the end of the one before, so the drawn tasks
                do not depend on the order in which groups finish.
            more: draws tasks, e.g. `Cursor.next`. `keep` needs it. They also replace tasks whose prompts are too long
                (`overlong_prompts: drop`), which are left out without it.
            max_rounds: number of rounds after which refused groups are left out.

        Raises:
            ValueError: `keep` without `more`.
            TimeoutError: no runner finished a group for `sample_timeout_s`.
            RuntimeError: more runners died than `max_restarts`.
        """
        if keep is not None and more is None:
            raise ValueError("keep needs more: where the tasks come from that replace a refused group")
        session = self.open_session(group_size, sampling, seed)
        try:
            yield from session.sample(tasks, keep=keep, more=more, max_rounds=max_rounds)
        except BaseException:
            session.abort()
            raise

    def open_session(
        self, group_size: int, sampling: Sampling, seed: int, *, stays_open: bool = False
    ) -> SamplingSession:
        """Returns a session, of which there can be one at a time. With `stays_open` it goes on until it is closed."""
        self.wait_until_ready()
        if self.queue is None:
            self.queue = actor_of_driver(TaskQueue, len(self.runners), max_restarts=-1, max_task_retries=-1)
        self._num_sessions += 1
        order = Order(group_size, sampling, seed, self.prefixes)
        self._session = SamplingSession(self._num_sessions, order, self, stays_open=stays_open)
        return self._session

    def interrupt(self) -> None:
        """End a sampling that goes on in another thread, which gets a SessionAbortedError."""
        if self._session is not None:
            self._session.abort()

    def offer_weights(self, version: int, update: WeightUpdate) -> None:
        """Have every runner load these weights between two steps of its engine, before any task that is put later.

        The call returns when the runners know of them, and does not wait until they are loaded.
        """
        self.weights_version = version
        calls = [r.offer_weights.options(concurrency_group="control").remote(version, update) for r in self.runners]
        # a dead runner's call is ready too: it gets the weights when it restarts
        ray.wait(calls, num_returns=len(calls), timeout=self.sample_timeout_s)

    @property
    def num_workers(self) -> int:
        return len(self.runners)

    def take_busy_s(self) -> float:
        """Returns the seconds that the engines have worked since the last call, of all runners together."""
        busy_s, self.busy_s = self.busy_s, 0.0
        return busy_s

    def restart(self, index: int, error: BaseException) -> None:
        """Restart a dead runner. Its weights are stale, so it gets the current ones before any work."""
        self._replace_all({index: error})

    def _replace_all(self, failures: dict[int, BaseException]) -> None:
        """Give the weights of `weight_source` to runners without them, after a restart where the error asks for one.

        A runner that has not died itself was in a transfer that failed, and may hold a part of it.

        Raises:
            WeightTransferError: a transfer has failed although no runner died. They wait for the next sync.
        """
        while failures:
            deaths = [error for error in failures.values() if isinstance(error, ACTOR_ERRORS)]
            if len(deaths) > self._restarts_left:
                raise RuntimeError(
                    "an EnvRunner died and fault_tolerance.max_env_runner_restarts is used up; last cause: "
                    + str(deaths[0])
                ) from deaths[0]
            self._restarts_left -= len(deaths)
            indices = sorted(failures)
            ended = [index for index in indices if not isinstance(failures[index], TransferNotBegunError)]
            self.num_restarts += len(ended)
            for index in ended:
                ray.kill(self.runners[index])  # a runner that is only out of reach would keep its resources
                self.runners[index] = self._start()
            lost = lost_in_start({i: self.runners[i] for i in ended}, "EnvRunner", self._hint, self._start_timeout_s)
            if not deaths:
                cause = failures[indices[0]]
                raise WeightTransferError(f"EnvRunners did not get their weights: {root_cause(cause)}") from cause
            if lost:  # the others wait for weights until these have started, too
                failures = {index: lost.get(index, TransferNotBegunError("a runner was lost")) for index in indices}
                continue
            failures = {}
            if self.weight_source is not None:
                with self.weight_source(self._members(indices)) as (version, update):
                    failures = self._load(indices, version, update)
                self.weights_version = max(self.weights_version, version)

    def stop(self) -> None:
        """End every runner and its processes."""
        kill(self.runners)
        self.runners = []
        self.weight_source = None
        if self.queue is not None:
            ray.kill(self.queue)
            self.queue = None
