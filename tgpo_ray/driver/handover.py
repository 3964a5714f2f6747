"""Handover, which passes scored groups to the learners."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tgpo_ray.episode import SampledGroup


class Handover:
    """An iteration's groups, which go to the learners while others are still being written.

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
        """Whether groups go to the learners as they arrive."""
        return self._enough_tokens is not None

    def take(self, group: SampledGroup) -> None:
        """Adds a group, and hands the waiting ones over once they fill a micro-batch on each rank."""
        self.groups.append(group)
        if self._enough_tokens is None:
            return
        self._waiting.append(group)
        if sum(map(_num_tokens, self._waiting)) >= self._enough_tokens:
            self.flush()

    def flush(self) -> None:
        """Hands the waiting groups over."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._accumulate(waiting)


def _num_tokens(group: SampledGroup) -> int:
    """Without padding: which sequences are padded to which length is planned when groups are handed over."""
    return sum(info.num_tokens for info in group.infos)
