"""The scoring of finished groups while other groups are still being written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from tgpo_ray.episode import SampledGroup
from tgpo_ray.teachers.batch_requests import BatchRequests
from tgpo_ray.teachers.counts import ScoringCounts
from tgpo_ray.teachers.group import TeacherGroup


class GroupRequest(NamedTuple):
    """One pool that is to score a group."""

    scorer: str  # the name that the guidance has in the group: "teacher", "reference"
    pool: TeacherGroup
    want: Collection[str]  # fields of the guidance: "argmax", "logprob", ...


@dataclass
class _OpenGroup:
    group: SampledGroup  # with the guidance so far
    num_open: int  # scorers that have not answered


class Scoring:
    """The groups of one iteration on their way through the pools that score them.

        with Scoring() as scoring:
            for group in sampled:
                scoring.submit(group, [GroupRequest("teacher", pool, {"argmax"})])
                train_on(scoring.finished())
            train_on(scoring.drain())

    A group comes back once, when the last of its scorers has answered or given up. A group without scorers comes back
    with the next `finished`. The end of the block drops open groups, so a later iteration gets no answers of this one.
    """

    def __init__(self) -> None:
        self._batches: dict[TeacherGroup, BatchRequests] = {}
        self._open: dict[int, _OpenGroup] = {}  # by the group's ordinal
        self._ready: list[SampledGroup] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for batch in self._batches.values():
            batch.forget()

    @property
    def counts(self) -> ScoringCounts:
        """The counts of all pools."""
        return sum((batch.counts for batch in self._batches.values()), ScoringCounts())

    def submit(self, group: SampledGroup, requests: Sequence[GroupRequest]) -> None:
        """Have each pool score the group."""
        if not requests:
            self._ready.append(group)
            return
        self._open[group.ordinal] = _OpenGroup(group, len(requests))
        for scorer, pool, want in requests:
            if pool not in self._batches:
                self._batches[pool] = pool.batch(scorer)
            self._batches[pool].submit(group, want)

    def finished(self) -> list[SampledGroup]:
        """Returns the groups that are complete, without waiting.

        Raises:
            ActorStartError: a pool has no replica left.
        """
        for batch in self._batches.values():
            for answered in batch.finished():
                self._join(answered)
        return self._take_ready()

    def drain(self) -> Iterator[SampledGroup]:
        """Yields the remaining groups as they are completed.

        Raises:
            RuntimeError: a pool failed on more than its `max_unguided_share` of the groups.
            ActorStartError: a pool has no replica left.
        """
        yield from self._take_ready()
        for batch in self._batches.values():
            for answered in batch.drain():
                self._join(answered)
                yield from self._take_ready()

    def _join(self, answered: SampledGroup) -> None:
        """Add one scorer's answer to its group, which is ready after the last."""
        waiting = self._open[answered.ordinal]
        waiting.group = replace(waiting.group, guidance={**waiting.group.guidance, **answered.guidance})
        waiting.num_open -= 1
        if not waiting.num_open:
            self._ready.append(self._open.pop(answered.ordinal).group)

    def _take_ready(self) -> list[SampledGroup]:
        ready, self._ready = self._ready, []
        return ready


def annotate(
    groups: Iterable[SampledGroup],
    pool_of: Callable[[SampledGroup], TeacherGroup],
    want: Collection[str],
    scorer: str = "teacher",
) -> Iterator[SampledGroup]:
    """Yields every group with the guidance of its own pool under `scorer`, as soon as that arrives.

    Raises:
        RuntimeError: a pool failed on more than its `max_unguided_share` of the groups.
        ActorStartError: a pool has no replica left.
    """
    with Scoring() as scoring:
        for group in groups:
            scoring.submit(group, [GroupRequest(scorer, pool_of(group), want)])
            yield from scoring.finished()
        yield from scoring.drain()
