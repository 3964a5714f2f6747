"""Options of a verifier that runs in the shared pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..options import Options
from ..verdict import Verdict
from .pool import DEFAULT_DEADLINE_S, shared_pool


@dataclass(frozen=True, kw_only=True)
class VerifierOptions(Options):
    """The process that computes the score.

    Raises:
        ValueError: for a deadline or a number of workers that is not positive.
    """

    deadline_s: float = DEFAULT_DEADLINE_S
    """Seconds that one verification may take before its process is killed."""
    verify_workers: int = 1
    """Processes of this Python process's shared verifier pool."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.deadline_s <= 0 or self.verify_workers < 1:
            raise ValueError(
                f"deadline_s must be > 0 and verify_workers >= 1, got {self.deadline_s} and {self.verify_workers}"
            )

    def verify(self, target: str, *args: Any) -> Verdict:
        """The verdict of the function `target` on JSON arguments, from a process that is killed at the deadline."""
        return shared_pool(self.verify_workers).verify(target, *args, deadline_s=self.deadline_s)
