"""The format gate: a response scores only when it closes its thought, and only what follows the thought is read."""

from __future__ import annotations

from dataclasses import dataclass

from .prompts import THINK_CLOSE, THINK_OPEN
from .verdict import UNPARSABLE, Verdict

NO_THOUGHT = f"no closed <think> ... {THINK_CLOSE} section"


@dataclass(frozen=True, slots=True)
class FormatGate:
    """Which part of a response is scored. A gate that is off lets every response through whole.

    Args:
        on: whether the gate checks anything.
        opened: the prompt ends in `<think>`, which counts as if the response began with it.
    """

    on: bool
    opened: bool

    def scored_text(self, response: str) -> str | None:
        """The text between the first `</think>` and the next, or None without a closed thought."""
        if not self.on:
            return response
        full = (THINK_OPEN if self.opened else "") + response
        # Without the line feed of THINK_OPEN: a policy may go on in the same line.
        if THINK_OPEN.strip() not in full or THINK_CLOSE not in full:
            return None
        return full.split(THINK_CLOSE)[1]  # a second `</think>` ends the solution, as in the paper's reward

    @property
    def empty_thought(self) -> str:
        """What a right response without thoughts begins with."""
        return f"{'' if self.opened else THINK_OPEN}\n{THINK_CLOSE}\n\n" if self.on else ""

    def parts(self, accuracy: float, *, passed: bool = True) -> dict[str, float]:
        """Named parts of the reward: the accuracy, and the format where the gate is on."""
        return {"accuracy": accuracy, "format": float(passed)} if self.on else {"accuracy": accuracy}

    def refusal(self) -> Verdict:
        """The verdict on a response without a closed thought."""
        return Verdict(0.0, UNPARSABLE, detail=NO_THOUGHT, parts=self.parts(0.0, passed=False))
