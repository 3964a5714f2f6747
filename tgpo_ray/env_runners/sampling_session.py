"""SamplingSession, the driver's side of sampling: a queue of tasks, and a stream of groups from each runner."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import ray

from tgpo_ray.cluster import ACTOR_ERRORS
from tgpo_ray.env_runners.task_queue import QueueReader
from tgpo_ray.episode import SampledGroup, Task, TaskKey

if TYPE_CHECKING:
    from tgpo_ray.env_runners.runner import Finished
    from tgpo_ray.models import Sampling
    from tgpo_ray.teachers import Prefixes

POLL_S = 1.0


class Order(NamedTuple):
    """The way in which every task of a session is sampled."""

    group_size: int
    sampling: Sampling
    seed: int
    prefixes: Prefixes | None = None  # teacher-written beginnings of responses; None: the policy writes all


class SamplingSession:
    """The tasks that runners draw, and the groups that they finish.

    Args:
        number: of the session; later ones have higher numbers.
        queue: a TaskQueue actor.
        runners: the runners' actors. `restart` may exchange a member of the list.
        restart: starts the runner of an index again after an error, or raises.
        timeout_s: seconds that the wait for any next group may take.
        stays_open: the runners wait for more tasks until `close`, and tasks of later batches may be put in advance.
            Otherwise they are free for other work after each round.
    """

    def __init__(
        self,
        number: int,
        order: Order,
        queue: Any,
        runners: Sequence[Any],
        restart: Callable[[int, BaseException], None],
        timeout_s: float,
        *,
        stays_open: bool = False,
    ) -> None:
        self._number, self._order, self._stays_open = number, order, stays_open
        self._queue, self._runners, self._restart, self._timeout_s = queue, runners, restart, timeout_s
        self._streams: dict[Any, int] = {}  # the stream of each runner that works, and the runner's index
        self._unfinished: dict[TaskKey, Task] = {}
        self._early: dict[TaskKey, SampledGroup] = {}  # groups of a later batch
        self._since = time.monotonic()
        self.busy_s = 0.0  # of the engines, as far as they have reported it

    def sample(
        self,
        tasks: Sequence[Task],
        *,
        keep: Callable[[SampledGroup], bool] | None = None,
        more: Callable[[int], Sequence[Task]] | None = None,
        max_rounds: int = 10,
    ) -> Iterator[SampledGroup]:
        """Yields one group a task as the groups finish. See `EnvRunnerGroup.sample`."""
        for number in range(max_rounds):
            refused: list[Task] = []
            for group in self._round(tasks):
                if keep is None or keep(group):
                    yield group
                else:
                    refused.append(group.task)
            if not refused or more is None or number == max_rounds - 1:
                return
            refused.sort(key=lambda task: task.ordinal)  # the order of finishing varies
            drawn = zip(refused, more(len(refused)), strict=True)
            tasks = [replace(task, ordinal=gone.ordinal, batch=gone.batch) for gone, task in drawn]

    def put(self, tasks: Sequence[Task]) -> None:
        """Hand these tasks to the runners. A later `sample` of them yields their groups."""
        self._unfinished |= {task.key: task for task in tasks}
        ray.get(self._queue.put.remote(self._number, list(tasks), is_complete=not self._stays_open))
        self._since = time.monotonic()
        working = set(self._streams.values())
        for runner in range(len(self._runners)):
            if runner not in working:
                self._start(runner)

    def close(self) -> None:
        """Let the runners' streams end, and wait until they have, so that the runners are free for other work."""
        if self._stays_open:
            ray.get(self._queue.put.remote(self._number, [], is_complete=True))
        while self._streams:
            self._next()

    def abort(self) -> None:
        """Drop all tasks, and interrupt the runners. It does not wait for them: they end after their present step."""
        self._queue.put.remote(self._number + 1, [], is_complete=True)
        for runner in self._runners:
            runner.interrupt.options(concurrency_group="control").remote(self._number)
        self._streams, self._unfinished = {}, {}

    def _round(self, tasks: Sequence[Task]) -> Iterator[SampledGroup]:
        """Yields one group a task, of those that were put in advance and of those that were not."""
        known = self._unfinished.keys() | self._early.keys()
        if fresh := [task for task in tasks if task.key not in known]:
            self.put(fresh)
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
        method = self._runners[runner].sample.options(num_returns="streaming")
        stream = method.remote(QueueReader(self._queue, self._number, runner), *self._order)
        self._streams[stream] = runner

    def _next(self) -> SampledGroup | None:
        """Returns the next finished group, or None after an event that is none, or a second without any.

        Raises:
            TimeoutError: no runner has finished a group for `timeout_s`.
        """
        assert self._streams, "the runners ended their streams before the last group"
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
            self._restart(runner, error)
            ray.get(self._queue.give_back.remote(runner, set(self._unfinished)))
            self._start(runner)
        return None

    def _read(self, stream: Any) -> SampledGroup:
        ref = next(stream)
        # A runner yields the group and then its figures, and only these are fetched. If it dies between the two, the
        # fetched `ref` is its error. With `ref` as the default of `next`, a lone error item raises here.
        finished: Finished = ray.get(next(stream, ref))
        self._since = time.monotonic()
        self.busy_s += finished.busy_s
        task = self._unfinished.pop(finished.key)
        self._queue.forget.remote([finished.key])
        return SampledGroup(task.ordinal, task, finished.infos, ref)

    def _check_deadline(self) -> None:
        silent = time.monotonic() - self._since
        if self._unfinished and silent > self._timeout_s:
            raise TimeoutError(
                f"no EnvRunner finished a group for {silent:.0f} s (fault_tolerance.sample_timeout_s): an environment "
                "that does not return from step, or an engine that is too slow for max_response_tokens"
            )
