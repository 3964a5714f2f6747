"""Handover, which passes scored groups to the learners."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tgpo_ray.episode import SampledGroup


class Handover:
    """An iteration's groups, which go to the learners while others are still being written.

    Args:
        accumulate: gives groups to the learners and returns at once.
        enough_tokens: number of padded tokens at which waiting groups are handed over, a micro-batch on each rank.
            With None they are only gathered.
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
        if sum(map(_padded_tokens, self._waiting)) >= self._enough_tokens:
            self.flush()

    def flush(self) -> None:
        """Hands the waiting groups over."""
        waiting, self._waiting = self._waiting, []
        if waiting:
            self._accumulate(waiting)


def _padded_tokens(group: SampledGroup) -> int:
    # A micro-batch is padded to its longest sequence.
    return len(group.infos) * max(info.num_tokens for info in group.infos)
