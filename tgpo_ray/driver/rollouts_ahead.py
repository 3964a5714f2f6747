"""RolloutsAhead, the source of groups that are sampled and scored ahead of the learners, in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tgpo_ray.driver.rollouts import Producer, Rollouts, Take
from tgpo_ray.driver.stage_times import StageTimes
from tgpo_ray.env_runners import SessionAbortedError
from tgpo_ray.episode import SampledGroup, Task

if TYPE_CHECKING:
    from tgpo_ray.env_runners import SamplingSession
    from tgpo_ray.models import Sampling

JOIN_S = 30.0  # an interrupted thread needs as long as a step of the engine and of an environment


class RolloutsAhead:
    """Threads that sample and score batches while the learners work on earlier ones (`training.max_staleness`).

    Each batch has a thread. It begins when the batch before is sampled, which may still be scored then. With a
    staleness of 1 the order is fixed, so the same seed gives the same run: before batch n + 1 begins, the runners have
    sampled batch n and got the weights of n updates. They sample n + 1 from these while n is learned. With k > 1 the
    runners go on to batch n + k, and take the newest weights before each batch. With `in_flight` they take them between
    two steps of their engines, in the middle of responses.

    Args:
        producer: the algorithm. The thread of a batch calls its `roll_out`.
        max_staleness: k, the number of batches that may be sampled ahead of the one that is learned.
        num_iterations: no batch is sampled for this iteration or a later one.
        in_flight: whether weights change within responses.
    """

    def __init__(self, producer: Producer, max_staleness: int, num_iterations: int, *, in_flight: bool) -> None:
        self._producer, self._k, self._in_flight = producer, max_staleness, in_flight
        self._end = num_iterations
        self._session: SamplingSession | None = None  # in flight, one session has the tasks of all batches
        self._changed = threading.Condition()
        self._generation = 0  # of the thread; `drop` ends one
        self._reset(0)

    def _reset(self, iteration: int) -> None:
        self._threads: list[threading.Thread] = []  # the last has the batch that is sampled, or is to be
        self._next = iteration  # the batch of the last thread
        self._allowed = iteration - 1  # the last batch that may begin
        self._ready: dict[int, Rollouts] = {}
        self._error: BaseException | None = None
        self._num_working = 0  # batches that are sampled or scored
        self._resting = self._stale = False
        self._update: Any = None  # newer weights than the runners have, for k > 1

    # ---- the learners' side

    def next(self, iteration: int, take: Take, times: StageTimes) -> Rollouts:
        """Returns the rollouts of this iteration. The wait for them is in the stages `sample` and `guidance`."""
        with times.stage("sample"):
            self._begin(iteration)
            self._wait_for(lambda: self._next > iteration)
        if self._stale:
            with times.stage("sync"):
                self._refresh()
        self._allow(iteration + self._k)
        with times.stage("guidance"):
            self._wait_for(lambda: iteration in self._ready)
        rollouts = self._ready.pop(iteration)
        for group in sorted(rollouts.groups, key=lambda group: group.ordinal):
            take(group)
        return rollouts

    def _begin(self, iteration: int) -> None:
        if not self._threads:
            self._reset(iteration)
            self._start_thread(self._generation)
        # At a staleness of 1 the batch after it waits for the weights, which are loaded between the two.
        self._allow(iteration if self._k == 1 else iteration + self._k)

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self._error is not None)
            if self._error is not None and not condition():  # else the error is one of a later batch
                raise self._error

    def _allow(self, iteration: int) -> None:
        with self._changed:
            self._resting = False
            self._allowed = min(max(self._allowed, iteration), self._end - 1)
            self._changed.notify_all()

    def publish(self) -> None:
        if self._in_flight:
            self._producer.weights.offer()
        elif self._k == 1:
            self._stale = True  # the runners may be sampling: they get the weights when the batch is complete
        else:
            self._update = self._producer.weights.take()

    def _refresh(self) -> None:
        self._producer.weights.sync()
        self._stale = False

    def rest(self) -> None:
        with self._changed:
            self._resting = True
        self._wait_for(lambda: not self._num_working)
        if self._session is not None:
            self._session.close()
        if self._update is not None:
            self._load_update()
        if self._stale:
            self._refresh()

    def drop(self) -> None:
        with self._changed:
            self._generation += 1
            self._changed.notify_all()
        if self._threads:
            self._producer.env_runners.interrupt()
            for thread in self._threads:
                thread.join(JOIN_S)
        self._session = None
        self._reset(0)

    # ---- the threads

    def _start_thread(self, generation: int) -> None:
        name = f"rollouts-{self._next}"
        thread = threading.Thread(target=self._produce, args=(self._next, generation), name=name, daemon=True)
        self._threads = [*filter(threading.Thread.is_alive, self._threads), thread]
        thread.start()

    def _produce(self, iteration: int, generation: int) -> None:
        groups: list[SampledGroup] = []

        def take(group: SampledGroup) -> None:
            if generation != self._generation:  # `drop` came where no session could be interrupted
                raise SessionAbortedError("sampling was interrupted")
            groups.append(group)

        try:
            if not self._may_begin(iteration, generation):
                return
            if self._update is not None:
                self._load_update()
            rollouts = self._producer.roll_out(iteration, take, StageTimes(), lambda: self._sampled(generation))
            rollouts.groups = groups
            self._finish(iteration, generation, rollouts, None)
        except BaseException as error:
            self._finish(iteration, generation, None, error)

    def _may_begin(self, iteration: int, generation: int) -> bool:
        """Waits until the batch may begin, and returns whether it may. It may not after `drop`."""
        with self._changed:
            self._changed.wait_for(
                lambda: generation != self._generation or (iteration <= self._allowed and not self._resting)
            )
            if generation != self._generation:
                return False
            self._num_working += 1
            return True

    def _sampled(self, generation: int) -> None:
        """Hand the runners over to the thread of the next batch."""
        with self._changed:
            if generation == self._generation:
                self._next += 1
                self._start_thread(generation)
                self._changed.notify_all()

    def _finish(self, iteration: int, generation: int, rollouts: Rollouts | None, error: BaseException | None) -> None:
        with self._changed:
            if generation != self._generation:  # dropped: an interruption is no error
                return
            self._num_working -= 1
            self._error = self._error or error
            if rollouts is not None:
                self._ready[iteration] = rollouts
            self._changed.notify_all()

    def _load_update(self) -> None:
        update, self._update = self._update, None  # no copy of the weights outlives its sync
        self._producer.weights.load(update)

    def sample(
        self, tasks: Sequence[Task], group_size: int, sampling: Sampling, seed: int, **rounds: Any
    ) -> Iterator[SampledGroup]:
        if not self._in_flight:
            return self._producer.env_runners.sample(tasks, group_size, sampling, seed, **rounds)
        if self._session is None:
            self._session = self._producer.env_runners.open_session(group_size, sampling, seed, stays_open=True)
        return self._sample_in_flight(self._session, tasks, **rounds)

    def _sample_in_flight(
        self, session: SamplingSession, tasks: Sequence[Task], **rounds: Any
    ) -> Iterator[SampledGroup]:
        for group in session.sample(tasks, **rounds):
            with self._changed:
                early = range(self._next + 1, self._allowed + 1) if not self._resting else range(0)
            for iteration in early:  # so that no engine runs empty while the last groups of this batch are written
                session.put(self._producer.batches.tasks(iteration))
            yield group
