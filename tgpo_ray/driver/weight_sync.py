"""WeightSync, the versioned path of the learners' weights to the engines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ray

from tgpo_ray.cluster import ACTOR_ERRORS, actor_of_driver
from tgpo_ray.env_runners import EnvRunnerGroup
from tgpo_ray.learners import LearnerGroup
from tgpo_ray.models import TransferChannel, WeightTransfer, WeightUpdate


class WeightSync:
    """The path of the learners' weights to the runners, with a count of the versions.

    Weights exist on the driver's node only while they are on their way. A runner that restarts gets them from the
    learners once more (`current`).
    """

    def __init__(self, learners: LearnerGroup, runners: EnvRunnerGroup) -> None:
        self._learners, self._runners = learners, runners
        self.backend, self._num_workers = runners.spec.engine.weight_transfer, runners.spec.engine.tensor_parallel_size
        self._channel: Any = None  # between both ends of vLLM's own transfer
        self.version = runners.weights_version
        self._num_steps = learners.num_steps  # of the learners, when their weights got the present version
        runners.weight_source = self.current

    def sync(self, version: int | None = None) -> int:
        """Returns the new version, `version` or the last one plus one, after every runner has the weights.

        A version never goes back, also where a restored run counts its updates again. So an episode's
        `weights_version` names only one set of weights.

        Raises:
            LearnersRestartedError: the learners died before the end. No runner samples before the next sync.
        """
        self._raise_version(version or 0)
        with self._update(self._runners.members) as update:
            self._runners.sync_weights(self.version, update)
        return self.version

    def resend(self) -> None:
        """Give every runner the learners' weights once more, under the present version."""
        with self._update(self._runners.members) as update:
            self._runners.sync_weights(self.version, update)

    def take(self) -> tuple[int, WeightUpdate]:
        """Returns the learners' weights under a new version, for `load`. Only with the object store."""
        self._raise_version()
        return self.version, self._learners.weight_buckets()

    def load(self, update: tuple[int, WeightUpdate]) -> None:
        """Returns after every runner has these weights. No runner may be sampling."""
        self._runners.sync_weights(*update)

    def offer(self) -> None:
        """Has every runner load the learners' weights between two steps of its engine, and does not wait for that.

        Only with the object store: the learners of a transfer wait until every engine has the weights.
        """
        self._runners.offer_weights(*self.take())

    @contextmanager
    def current(self, members: Sequence[str]) -> Iterator[tuple[int, WeightUpdate]]:
        """Yields the learners' weights of this moment and their version, for runners that have restarted.

        The learners may be ahead of the other runners. Their weights then get the next version.
        """
        if self._learners.num_steps != self._num_steps:
            self._raise_version()
        with self._update(members) as update:
            yield self.version, update

    def _raise_version(self, least: int = 0) -> None:
        self.version = max(self.version + 1, self._runners.weights_version + 1, least)
        self._num_steps = self._learners.num_steps

    @contextmanager
    def _update(self, members: Sequence[str]) -> Iterator[WeightUpdate]:
        """Yields what the engines of `members` load. It ends after the learners have sent all of it."""
        if self.backend is None:
            yield self._learners.weight_buckets()
            return
        number = self._begin(members)
        try:
            transfer = WeightTransfer(self.backend, self._channel, number, tuple(members), self._num_workers)
            with self._learners.sending_weights(transfer):
                yield transfer
        finally:
            self._channel.end.remote(number)

    def _begin(self, members: Sequence[str]) -> int:
        """Returns the number of a transfer that begins, on another channel if the present one has died."""
        with suppress(*ACTOR_ERRORS):
            if self._channel is not None:
                return ray.get(self._channel.begin.remote(members))
        # every waiting learner, watcher and engine needs a slot
        self._channel = actor_of_driver(TransferChannel, max_concurrency=1000)
        return ray.get(self._channel.begin.remote(members))
