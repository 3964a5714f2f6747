"""The result of verifying one response. It needs only the standard library, so that verifier workers start fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

CORRECT, WRONG, UNPARSABLE, TIMEOUT, ERROR = OUTCOMES = ("correct", "wrong", "unparsable", "timeout", "error")
"""The first three judge the response. `timeout` and `error` say that the verifier failed."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """Score and outcome of one response.

    A failed verifier is never a wrong answer. Its score is 0.0 too, but its outcome is `timeout` or `error`.

    Raises:
        ValueError: if `outcome` is not one of `OUTCOMES`.
    """

    score: float
    outcome: str
    extracted: str | None = None  # the answer as the verifier read it
    seconds: float | None = None  # the verifier's own time without waiting; None: not measured
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
    def of_failure(cls, failure: BaseException, *, seconds: float | None = None) -> Verdict:
        """The outcome `error` for a verifier that raised."""
        return cls(0.0, ERROR, seconds=seconds, detail=f"{type(failure).__name__}: {failure}")

    @classmethod
    def from_value(cls, value: Any, *, seconds: float | None = None) -> Verdict:
        """The verdict that the return value of a plain verifier function stands for.

        A bool or number is the score, `correct` from 1.0 upwards. A mapping has `score`, and optionally `outcome`,
        `extracted`, `detail`, `parts` and `data`. A `Verdict` is returned as it is.

        Raises:
            TypeError: for anything else. None is refused too: a forgotten `return` must not count as a score of zero.
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
