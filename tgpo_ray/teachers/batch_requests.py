"""BatchRequests, the groups of one iteration at one pool that scores them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Protocol

from tgpo_ray.episode import SampledGroup
from tgpo_ray.teachers.counts import ScoringCounts

WAIT_S = 0.2  # for news, before the pool looks for late replicas


class Pool(Protocol):
    """What a batch needs of its pool. `TeacherGroup` has it."""

    def send(self, batch: BatchRequests, group: SampledGroup, want: list[str], tries: int) -> None: ...

    def collect(self, *, wait_s: float) -> None: ...

    def check_share(self, counts: ScoringCounts) -> None: ...

    def forget(self, batch: BatchRequests) -> None: ...


class BatchRequests:
    """The requests of one iteration to one pool. `TeacherGroup.batch` makes it, one thread uses it at a time.

    Attributes:
        counts: of the work on this batch and of its failures.
        done: groups whose scoring has ended. The pool appends to it.
    """

    def __init__(self, pool: Pool, scorer: str) -> None:
        self._pool, self.scorer = pool, scorer
        self.counts = ScoringCounts()
        self.done: list[SampledGroup] = []
        self._num_open = 0

    def submit(self, group: SampledGroup, want: Collection[str]) -> None:
        """Have the pool score this group. `finished` returns it."""
        self.counts.groups += 1
        self._num_open += 1
        self._pool.send(self, group, sorted(want), 1)

    def finished(self, *, wait_s: float = 0.0) -> list[SampledGroup]:
        """Returns the groups whose scoring has ended, with guidance under `scorer`, or without it where that failed.

        Raises:
            ActorStartError: the pool has no replica left.
        """
        if not self.done:
            self._pool.collect(wait_s=wait_s)
        done = [self.done.pop(0) for _ in range(len(self.done))]  # the pool may append meanwhile
        self._num_open -= len(done)
        return done

    def drain(self) -> Iterator[SampledGroup]:
        """Yields the groups that are still open, as their scoring ends.

        Raises:
            RuntimeError: more than the pool's `max_unguided_share` of the batch got no guidance.
        """
        while self._num_open:
            yield from self.finished(wait_s=WAIT_S)
        self._pool.check_share(self.counts)

    def forget(self) -> None:
        """Drop what is open. Its answers reach nobody."""
        self._pool.forget(self)
