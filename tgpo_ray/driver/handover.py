"""Handover: scored groups on their way to the learners."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tgpo_ray.episode import SampledGroup


class Handover:
    """Gathers an iteration's groups, and hands them to the learners while others are still being written.

    Args:
        accumulate: gives groups to the learners, and returns at once.
        enough_tokens: tokens, those of a micro-batch on each rank, at which waiting groups are handed over; None: they
            are gathered only.
    """

    def __init__(self, accumulate: Callable[[Sequence[SampledGroup]], None], enough_tokens: int | None) -> None:
        self._accumulate, self._enough_tokens = accumulate, enough_tokens
        self.groups: list[SampledGroup] = []  # all, as they came
        self._waiting: list[SampledGroup] = []

    @property
    def streams(self) -> bool:
        """Whether groups are handed over as they come."""
        return self._enough_tokens is not None

    def take(self, group: SampledGroup) -> None:
        """Gather a group; hand over what waits, once it fills a micro-batch on each rank."""
        self.groups.append(group)
        if self._enough_tokens is None:
            return
        self._waiting.append(group)
        if sum(map(_num_tokens, self._waiting)) >= self._enough_tokens:
            self.flush()

    def flush(self) -> None:
        """Hand over what waits."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._accumulate(waiting)


def _num_tokens(group: SampledGroup) -> int:
    """Without padding: which sequences are padded to which length is planned when groups are handed over."""
    return sum(info.num_tokens for info in group.infos)
