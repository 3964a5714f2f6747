"""The counts of a pool's work and failures in an iteration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Protocol


@dataclass
class ScoringCounts:
    """The counts of a pool's work since they were last taken."""

    groups: int = 0  # submitted
    unguided: int = 0  # groups that went on without guidance
    retries: int = 0  # requests sent again after a failure
    rejected: int = 0  # answers that did not fit the responses
    restarts: int = 0  # replicas that were started again
    sequences: int = 0  # scored, in answers that came
    cached: int = 0  # of those, answered from the cache

    def __add__(self, other: ScoringCounts) -> ScoringCounts:
        return ScoringCounts(*(getattr(self, count.name) + getattr(other, count.name) for count in fields(self)))


class _Counting(Protocol):
    def take_counts(self) -> ScoringCounts: ...


def scoring_metrics(pools: Iterable[_Counting]) -> dict[str, float]:
    """Returns the `guidance/...` metrics of these pools since the last call, or none where they did nothing."""
    counts = sum((pool.take_counts() for pool in pools), ScoringCounts())
    if not counts.groups:
        return {}
    return {
        "guidance/unguided_groups": counts.unguided / counts.groups,
        "guidance/retries": float(counts.retries),
        "guidance/rejected_answers": float(counts.rejected),
        "guidance/teacher_restarts": float(counts.restarts),
        "guidance/cache_hits": counts.cached / max(1, counts.sequences),
    }
