"""How many rows each step has left out."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

STEPS = {
    "incomplete": "no problem, answer or trace in the row",
    "no box in the worked solution": "the last box in a column `solution` is the answer",
    "unreadable answer": "the answer cannot be read whole",
    "duplicate": "the problem occurred before, with the same answer",
    "duplicate, other answer": "the problem occurred before, with another answer; the first one is kept",
    "overlap": "too much in common with a problem of an evaluation set",
    "no trace": "the file of traces has none for the problem",
    "trace wrong": "the verifier read another answer in the trace",
    "trace unparsable": "the trace has no answer, or does not close its thought",
    "trace timed out": "the verifier was killed at its deadline; the trace is not known to be wrong",
    "trace not verified": "the verifier failed; the trace is not known to be wrong",
}
"""Why rows are left out, in the order of the steps."""

AFTER_TRACE = {
    "wrong": "trace wrong",
    "unparsable": "trace unparsable",
    "timeout": "trace timed out",
    "error": "trace not verified",
}
"""The reason by the verifier's outcome."""


@dataclass
class Counts:
    """Rows that were read, that were left out by reason, and that were written."""

    read: int = 0
    written: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def table(self) -> list[tuple[str, int, int]]:
        """Reason, rows left out for it, and rows that remain after it; only reasons that occurred."""
        rows, remaining = [], self.read
        for step in STEPS:
            if self.left_out[step]:
                remaining -= self.left_out[step]
                rows.append((step, self.left_out[step], remaining))
        return rows
