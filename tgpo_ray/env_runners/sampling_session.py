"""SamplingSession, the driver's side of sampling: a queue of tasks, and a stream of groups from each runner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import ray

from tgpo_ray.cluster import ACTOR_ERRORS
from tgpo_ray.env_runners.task_queue import QueueReader
from tgpo_ray.episode import SampledGroup, Task, TaskKey

if TYPE_CHECKING:
    from tgpo_ray.env_runners.runner_spec import Finished
    from tgpo_ray.models import Sampling
    from tgpo_ray.teachers import Prefixes

POLL_S = 1.0
MAX_OVERLONG_ROUNDS = 10
TOO_MANY_OVERLONG = (
    f"the prompts of {MAX_OVERLONG_ROUNDS} rounds of replacements were too long: the environment makes hardly any "
    "others. Raise env_runners.max_prompt_tokens, or have it make shorter problems"
)


class Order(NamedTuple):
    """The way in which every task of a session is sampled."""

    group_size: int
    sampling: Sampling
    seed: int
    prefixes: Prefixes | None = None  # teacher-written beginnings of responses; None: the policy writes all


class SessionAbortedError(RuntimeError):
    """The session was aborted while someone waited for its groups."""


class RunnerPool(Protocol):
    """What a session needs of the group of runners."""

    queue: Any  # a TaskQueue actor
    runners: list[Any]  # their actors
    sample_timeout_s: float  # seconds that the wait for any next group may take
    busy_s: float  # of the engines, as far as they have reported it
    num_overlong: int  # groups that were not sampled, because their prompts were too long

    def restart(self, index: int, error: BaseException) -> None:
        """Starts the runner of this index again after an error, or raises."""
        ...


def replaced(gone: Sequence[Task], more: Callable[[int], Sequence[Task]]) -> list[Task]:
    """Returns as many tasks from `more`, in the places of those that are gone."""
    if not gone:
        return []
    gone = sorted(gone, key=lambda task: task.ordinal)  # the order of finishing varies
    return [replace(task, ordinal=it.ordinal, batch=it.batch) for it, task in zip(gone, more(len(gone)), strict=True)]


class SamplingSession:
    """The tasks that runners draw, and the groups that they finish.

    Args:
        number: of the session; later ones have higher numbers.
        stays_open: the runners wait for more tasks until `close`, and tasks of later batches may be put in advance.
            Otherwise they are free for other work after each round.
    """

    def __init__(
        self,
        number: int,
        order: Order,
        pool: RunnerPool,
        *,
        stays_open: bool = False,
    ) -> None:
        self._number, self._order, self._pool, self._stays_open = number, order, pool, stays_open
        self._streams: dict[Any, int] = {}  # the stream of each runner that works, and the runner's index
        self._unfinished: dict[TaskKey, Task] = {}
        self._queue_life: str | None = None  # see `TaskQueue.put`
        self._early: dict[TaskKey, SampledGroup] = {}  # groups of a later batch
        self._since = time.monotonic()
        self._aborted = False

    def sample(
        self,
        tasks: Sequence[Task],
        *,
        keep: Callable[[SampledGroup], bool] | None = None,
        more: Callable[[int], Sequence[Task]] | None = None,
        max_rounds: int = 10,
    ) -> Iterator[SampledGroup]:
        """Yields one group a task as the groups finish. See `EnvRunnerGroup.sample`."""
        rounds_left, tries_left = max_rounds, MAX_OVERLONG_ROUNDS
        while tasks:
            rounds_left -= 1
            refused: list[Task] = []
            overlong: list[Task] = []
            for group in self._round(tasks):
                if not group.infos:
                    overlong.append(group.task)
                elif keep is None or keep(group):
                    yield group
                else:
                    refused.append(group.task)
            if overlong:
                self._pool.num_overlong += len(overlong)
            if more is None:
                return
            tries_left = tries_left - 1 if overlong else MAX_OVERLONG_ROUNDS
            if not tries_left:
                raise ValueError(TOO_MANY_OVERLONG)
            tasks = replaced([*overlong, *(refused if rounds_left > 0 else ())], more)

    def put(self, tasks: Sequence[Task]) -> None:
        """Hand those of the tasks to the runners that they do not have. A later `sample` yields their groups."""
        fresh = {task.key: task for task in tasks if task.key not in self._unfinished and task.key not in self._early}
        if not fresh:
            return
        self._unfinished |= fresh
        self._hand_over(fresh)

    def _hand_over(self, tasks: Mapping[TaskKey, Task]) -> None:
        """Put tasks on the queue, and have every runner that is idle begin.

        A queue that was restarted has lost the earlier ones, and gets all that are unfinished. A task that a runner had
        drawn before may then be sampled twice, with the same tokens.
        """
        put, is_complete = self._pool.queue.put.remote, not self._stays_open
        life: Any = ray.get(put(self._number, list(tasks.values()), is_complete=is_complete))
        if self._queue_life not in (None, life):
            lost = [task for key, task in self._unfinished.items() if key not in tasks]
            ray.get(put(self._number, lost, is_complete=is_complete))
        self._queue_life = life
        self._since = time.monotonic()
        working = set(self._streams.values())
        for runner in range(len(self._pool.runners)):
            if runner not in working:
                self._start(runner)

    def close(self) -> None:
        """Let the runners' streams end, and wait until they have, so that the runners are free for other work."""
        if self._stays_open:
            ray.get(self._pool.queue.put.remote(self._number, [], is_complete=True))
        while self._streams:
            if (group := self._next()) is not None:
                self._early[group.task.key] = group

    def abort(self) -> None:
        """Drop all tasks, and interrupt the runners. It does not wait for them: they end after their present step."""
        self._aborted = True
        self._pool.queue.put.remote(self._number + 1, [], is_complete=True)
        for runner in self._pool.runners:
            runner.interrupt.options(concurrency_group="control").remote(self._number)

    def _round(self, tasks: Sequence[Task]) -> Iterator[SampledGroup]:
        """Yields one group a task, of those that were put in advance and of those that were not."""
        self.put(tasks)
        missing = {task.key for task in tasks}
        for key in sorted(missing & self._early.keys()):
            missing.remove(key)
            yield self._early.pop(key)
        while missing:
            group = self._next()
            if group is None:
                continue
            if group.task.key in missing:
                missing.remove(group.task.key)
                yield group
            else:
                self._early[group.task.key] = group
        if not self._stays_open:
            self.close()

    def _start(self, runner: int) -> None:
        method = self._pool.runners[runner].sample.options(num_returns="streaming")
        stream = method.remote(QueueReader(self._pool.queue, self._number, runner), *self._order)
        self._streams[stream] = runner

    def _next(self) -> SampledGroup | None:
        """Returns the next finished group, or None after an event that is none, or a second without any.

        Raises:
            SessionAbortedError: `abort` was called.
            TimeoutError: no runner has finished a group for `sample_timeout_s`.
        """
        if self._aborted:
            raise SessionAbortedError("sampling was interrupted")
        if not self._streams:  # the queue has died, and the runners found none of its tasks in the next one
            life = self._queue_life
            self._hand_over(dict(self._unfinished))
            assert self._queue_life != life, "the runners ended their streams before the last group"
        ready, _ = ray.wait(list(self._streams), num_returns=1, timeout=POLL_S)
        if not ready:
            self._check_deadline()
            return None
        stream = ready[0]
        try:
            return self._read(stream)
        except StopIteration:
            del self._streams[stream]
        except ACTOR_ERRORS as error:
            runner = self._streams.pop(stream)
            self._pool.restart(runner, error)
            ray.get(self._pool.queue.give_back.remote(runner, set(self._unfinished)))
            self._start(runner)
        return None

    def _read(self, stream: Any) -> SampledGroup | None:
        ref = next(stream)
        # A runner yields the group and then its figures, and only these are fetched. If it dies between the two, the
        # fetched `ref` is its error. With `ref` as the default of `next`, a lone error item raises here.
        finished: Finished = ray.get(next(stream, ref))
        self._since = time.monotonic()
        self._pool.busy_s += finished.busy_s
        task = self._unfinished.pop(finished.key, None)
        if task is None:  # another runner has sampled it too, see `_hand_over`
            return None
        self._pool.queue.forget.remote([finished.key])
        return SampledGroup(task.ordinal, task, finished.infos, ref)

    def _check_deadline(self) -> None:
        silent = time.monotonic() - self._since
        if self._unfinished and silent > self._pool.sample_timeout_s:
            raise TimeoutError(
                f"no EnvRunner finished a group for {silent:.0f} s (fault_tolerance.sample_timeout_s): an environment "
                "that does not return from step, or an engine that is too slow for max_response_tokens"
            )
