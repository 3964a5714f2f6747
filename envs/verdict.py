"""What a verifier said of one response. Standard library alone, so that verifier workers start fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CORRECT, WRONG, UNPARSABLE, TIMEOUT, ERROR = OUTCOMES = ("correct", "wrong", "unparsable", "timeout", "error")
"""The first three judge the response; `timeout` and `error` say that the verifier failed to."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Score and outcome of one response.

    A failed verifier is never a wrong answer: its score is 0.0 too, but its outcome is `timeout` or `error`.

    Raises:
        ValueError: if `outcome` is not one of `OUTCOMES`.
    """

    score: float
    outcome: str
    extracted: str | None = None  # the answer as the verifier read it
    seconds: float | None = None  # the verifier's own time, waiting excluded; None: nobody measured it
    detail: str = ""  # why, for people
    parts: Mapping[str, float] = field(default_factory=dict)  # named parts of the reward, for metrics
    data: Any = None  # JSON that the verifier's process hands to its environment

    def __post_init__(self) -> None:
        if self.outcome not in OUTCOMES:
            raise ValueError(f"outcome must be one of {', '.join(OUTCOMES)}, got {self.outcome!r}")

    @property
    def failed(self) -> bool:
        """True where the verifier itself failed."""
        return self.outcome in (TIMEOUT, ERROR)

    @classmethod
    def from_value(cls, value: Any, *, seconds: float | None = None) -> Verdict:
        """The verdict that a plain verifier function meant by what it returned.

        A bool or number is the score, `correct` from 1.0 upwards; a mapping has `score` and, where it likes,
        `outcome`, `extracted`, `detail`, `parts` and `data`. A `Verdict` is itself.

        Raises:
            TypeError: for anything else, None included: a forgotten `return` is no zero.
        """
        if isinstance(value, Verdict):
            return value
        if isinstance(value, Mapping):
            fields = dict(value)
            score = float(fields.pop("score"))
            return cls(score, fields.pop("outcome", _outcome_of(score)), seconds=seconds, **fields)
        if isinstance(value, bool | int | float):
            return cls(float(value), _outcome_of(float(value)), seconds=seconds)
        raise TypeError(f"a verifier returns a bool, a number or a mapping with 'score', got {type(value).__name__}")


def _outcome_of(score: float) -> str:
    return CORRECT if score >= 1.0 else WRONG
