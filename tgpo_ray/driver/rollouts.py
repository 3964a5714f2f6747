"""Where an iteration's scored groups come from, and the source of those that are sampled in the iteration itself."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from tgpo_ray.driver.stage_times import StageTimes
from tgpo_ray.episode import EpisodeInfo, SampledGroup, Task

if TYPE_CHECKING:
    from tgpo_ray.driver.weight_sync import WeightSync
    from tgpo_ray.env_runners import Cursor, EnvRunnerGroup
    from tgpo_ray.models import Sampling

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

    def roll_out(self, iteration: int, take: Take, times: StageTimes, sampled: Callable[[], None]) -> Rollouts: ...


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
        rollouts = self._producer.roll_out(iteration, take, times, lambda: None)
        self._producer.env_runners.sleep()  # with `env_runners.sleep`; the next weights wake the engines up
        return rollouts

    def publish(self) -> None:
        self._producer.weights.sync()

    def rest(self) -> None:
        """The runners are idle between iterations, and have the newest weights."""

    def drop(self) -> None:
        """Nothing is in flight between iterations."""
