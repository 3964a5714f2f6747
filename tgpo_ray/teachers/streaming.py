"""Groups of episodes through their teachers, while other groups are still being written."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from tgpo_ray.episode import SampledGroup
from tgpo_ray.teachers.group import TeacherGroup


def annotate(
    groups: Iterable[SampledGroup],
    pool_of: Callable[[SampledGroup], TeacherGroup],
    want: Collection[str],
    scorer: str = "teacher",
) -> Iterator[SampledGroup]:
    """Yield every group again, with guidance from its own pool under `scorer`, as soon as that is there.

    Scoring runs while `groups` still produces: a sequence needs nothing but itself.

    Raises:
        RuntimeError: a pool failed on more than its `max_unguided_share` of the groups.
        ActorStartError: a pool has no replica left.
    """
    pools: dict[int, TeacherGroup] = {}
    try:
        for group in groups:
            pool = pool_of(group)
            pools[id(pool)] = pool
            pool.submit(group, want)
            for busy in pools.values():
                yield from busy.finished(scorer, wait_s=0.0)
        for pool in pools.values():
            yield from pool.drain(scorer)
    finally:
        for pool in pools.values():
            pool.forget()
