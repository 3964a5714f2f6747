"""The counts of a pool's work and failures in an iteration."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class ScoringCounts:
    """The counts of the work on one batch."""

    groups: int = 0  # submitted
    unguided: int = 0  # groups that went on without guidance
    retries: int = 0  # requests sent again after a failure
    rejected: int = 0  # answers that did not fit the responses
    restarts: int = 0  # replicas that were started again
    sequences: int = 0  # scored, in answers that came
    cached: int = 0  # of those, answered from the cache

    def __add__(self, other: ScoringCounts) -> ScoringCounts:
        return ScoringCounts(*(getattr(self, count.name) + getattr(other, count.name) for count in fields(self)))

    def metrics(self) -> dict[str, float]:
        """Returns the `guidance/...` metrics of these counts, or none where nothing was scored."""
        if not self.groups:
            return {}
        return {
            "guidance/unguided_groups": self.unguided / self.groups,
            "guidance/retries": float(self.retries),
            "guidance/rejected_answers": float(self.rejected),
            "guidance/teacher_restarts": float(self.restarts),
            "guidance/cache_hits": self.cached / max(1, self.sequences),
        }
