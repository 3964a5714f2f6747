"""Where an iteration's scored groups come from: sampled in the iteration itself, or ahead of it in a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from tgpo_ray.driver.stage_times import StageTimes
from tgpo_ray.env_runners import SessionAbortedError
from tgpo_ray.episode import EpisodeInfo, SampledGroup, Task

if TYPE_CHECKING:
    from tgpo_ray.driver.weight_sync import WeightSync
    from tgpo_ray.env_runners import Cursor, EnvRunnerGroup, SamplingSession
    from tgpo_ray.models import Sampling

JOIN_S = 30.0  # an interrupted thread needs as long as a step of the engine and of an environment

Take = Callable[[SampledGroup], None]


@dataclass
class Rollouts:
    """What an iteration has sampled, as far as the driver holds it."""

    infos: list[tuple[EpisodeInfo, ...]] = field(default_factory=list)  # of every group that arrived
    refused: Sequence[tuple[EpisodeInfo, ...]] = ()  # of the groups that dynamic sampling replaced
    groups: list[SampledGroup] = field(default_factory=list)  # scored; empty where they were handed on as they came
    metrics: dict[str, float] = field(default_factory=dict)  # of the scorers
    num_overlong: int = 0  # groups whose prompts were too long, and that others have replaced


class Batches:
    """The tasks of the iterations that are not trained on yet, and the cursor before each of them.

    A checkpoint has the cursor before the first of these, so what is in flight is sampled again after a restore.
    """

    def __init__(self, cursor: Cursor, num_groups: int) -> None:
        self._cursor, self._num_groups = cursor, num_groups
        self._drawn: dict[int, tuple[dict[str, Any], list[Task]]] = {}
        self._lock = threading.Lock()

    def tasks(self, iteration: int) -> list[Task]:
        """Returns the tasks of an iteration, drawn once."""
        with self._lock:
            if iteration not in self._drawn:
                state = self._cursor.state_dict()
                tasks = [replace(task, batch=iteration) for task in self._cursor.next(self._num_groups)]
                self._drawn[iteration] = state, tasks
            return self._drawn[iteration][1]

    def more(self, num_tasks: int) -> list[Task]:
        """Returns further tasks, to replace some."""
        with self._lock:
            return self._cursor.next(num_tasks)

    def forget(self, iteration: int) -> None:
        """Drops the tasks of this iteration and those before it: they were trained on."""
        with self._lock:
            self._drawn = {number: drawn for number, drawn in self._drawn.items() if number > iteration}

    def state_dict(self) -> dict[str, Any]:
        """Returns the cursor before the first task that was not trained on."""
        with self._lock:
            return self._drawn[min(self._drawn)][0] if self._drawn else self._cursor.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with self._lock:
            self._drawn = {}
            self._cursor.load_state_dict(state)


class Producer(Protocol):
    """The part of an algorithm that samples and scores."""

    weights: WeightSync
    env_runners: EnvRunnerGroup
    batches: Batches

    def roll_out(self, iteration: int, take: Take, times: StageTimes) -> Rollouts: ...


class RolloutSource(Protocol):
    """The order of sampling, learning and weight syncs."""

    def next(self, iteration: int, take: Take, times: StageTimes) -> Rollouts:
        """Returns the rollouts of this iteration, after `take` got each of its groups."""
        ...

    def sample(
        self, tasks: Sequence[Task], group_size: int, sampling: Sampling, seed: int, **rounds: Any
    ) -> Iterator[SampledGroup]:
        """Yields the groups of a batch, as `EnvRunnerGroup.sample` does."""
        ...

    def publish(self) -> None:
        """Called after the iteration's updates: the runners get the new weights, now or later."""
        ...

    def rest(self) -> None:
        """Returns when the runners are idle and have the newest weights, as evaluation needs them."""
        ...

    def drop(self) -> None:
        """Ends what is being sampled and forgets it."""
        ...


class OnPolicyRollouts:
    """Every iteration samples from the weights that it updates (`training.max_staleness: 0`)."""

    def __init__(self, producer: Producer) -> None:
        self._producer = producer

    def sample(
        self, tasks: Sequence[Task], group_size: int, sampling: Sampling, seed: int, **rounds: Any
    ) -> Iterator[SampledGroup]:
        return self._producer.env_runners.sample(tasks, group_size, sampling, seed, **rounds)

    def next(self, iteration: int, take: Take, times: StageTimes) -> Rollouts:
        rollouts = self._producer.roll_out(iteration, take, times)
        self._producer.env_runners.sleep()  # with `env_runners.sleep`; the next weights wake the engines up
        return rollouts

    def publish(self) -> None:
        self._producer.weights.sync()

    def rest(self) -> None:
        """The runners are idle between iterations, and have the newest weights."""

    def drop(self) -> None:
        """Nothing is in flight between iterations."""


class RolloutsAhead:
    """A thread that samples and scores batches while the learners work on earlier ones (`training.max_staleness`).

    With a staleness of 1 the order is fixed, so the same seed gives the same run. Before iteration n trains, its batch
    is complete, and the runners have the weights of n updates. They sample batch n + 1 from these while n is learned.
    With k > 1 the runners go on to batch n + k, and take the newest weights before each batch. With `in_flight` they
    take them between two steps of their engines, in the middle of responses.

    Args:
        producer: the algorithm. Its thread calls `roll_out` for one iteration after the other.
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
        self._thread: threading.Thread | None = None
        self._next = iteration  # the next batch of the thread
        self._allowed = iteration - 1  # the last batch that may begin
        self._ready: dict[int, Rollouts] = {}
        self._error: BaseException | None = None
        self._working = self._resting = self._stale = False
        self._update: Any = None  # newer weights than the runners have, for k > 1

    # ---- the learners' side

    def next(self, iteration: int, take: Take, times: StageTimes) -> Rollouts:
        """Returns the rollouts of this iteration. The wait for them is the stage `sample`."""
        with times.stage("sample"):
            rollouts = self._wait_for(iteration)
        if self._stale:
            with times.stage("sync"):
                self._refresh()
        self._allow(iteration + self._k)
        for group in sorted(rollouts.groups, key=lambda group: group.ordinal):
            take(group)
        return rollouts

    def _wait_for(self, iteration: int) -> Rollouts:
        if self._thread is None:
            self._reset(iteration)
            arguments = (self._generation,)
            self._thread = threading.Thread(target=self._produce, args=arguments, name="rollouts-ahead", daemon=True)
            self._thread.start()
        # At a staleness of 1 the batch after it waits for the weights, which are loaded between the two.
        self._allow(iteration if self._k == 1 else iteration + self._k)
        with self._changed:
            self._changed.wait_for(lambda: iteration in self._ready or self._error is not None)
            if self._error is not None:
                raise self._error
            return self._ready.pop(iteration)

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
            self._changed.wait_for(lambda: not self._working)
            if self._error is not None:
                raise self._error
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
        if self._thread is not None:
            self._producer.env_runners.interrupt()
            self._thread.join(JOIN_S)
        self._session = None
        self._reset(0)

    # ---- the thread

    def _produce(self, generation: int) -> None:
        try:
            while self._may_begin(generation):
                if self._update is not None:
                    self._load_update()
                groups: list[SampledGroup] = []

                def take(group: SampledGroup, groups: list[SampledGroup] = groups) -> None:
                    if generation != self._generation:  # `drop` came where no session could be interrupted
                        raise SessionAbortedError("sampling was interrupted")
                    groups.append(group)

                rollouts = self._producer.roll_out(self._next, take, StageTimes())
                rollouts.groups = groups
                self._finish(generation, rollouts, None)
        except BaseException as error:
            self._finish(generation, None, error)

    def _may_begin(self, generation: int) -> bool:
        """Waits until the next batch may begin, and returns whether it may. It may not after `drop`."""
        with self._changed:
            self._changed.wait_for(
                lambda: generation != self._generation or (self._next <= self._allowed and not self._resting)
            )
            self._working = generation == self._generation
            return self._working

    def _finish(self, generation: int, rollouts: Rollouts | None, error: BaseException | None) -> None:
        with self._changed:
            if generation != self._generation:  # dropped: an interruption is no error
                return
            self._error, self._working = error, False
            if rollouts is not None:
                self._ready[self._next] = rollouts
                self._next += 1
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
