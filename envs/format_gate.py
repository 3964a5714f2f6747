"""The format gate: an unfinished thought never scores, and of a finished one only what follows it is read."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .verdict import UNPARSABLE, Verdict

OPEN, CLOSE = "<think>", "</think>"
NO_THOUGHT = f"no closed {OPEN} ... {CLOSE} section"


@dataclass(frozen=True, slots=True)
class FormatGate:
    """Which part of a response is scored.

    Args:
        on: True: every response must close a thought. False: responses are read whole. None: a response must close the
            thought that it or its prompt opens, and is read whole where nobody opens one.
        begun: what of a thought the prompt has at its end, `<think>`, `<think></think>` or "". It counts as if the
            response began with it. None: not known, as for a chat that nobody has rendered.
    """

    on: bool | None = None
    begun: str | None = None

    def after(self, prompt: str | None) -> FormatGate:
        """The gate for responses to `prompt`, as the model reads it. None: it is not known yet."""
        return replace(self, begun=None if prompt is None else thought_begun(prompt))

    def scored_text(self, response: str) -> str | None:
        """The text between the first `</think>` and the next thought, or None without a closed thought."""
        full = (self.begun or "") + response
        if self.on is False or (self.on is None and OPEN not in full and CLOSE not in full):
            return response
        thought, closed, rest = full.partition(CLOSE)
        # Of a prompt that is not known, the `</think>` says that somebody opened the thought.
        nobody_opened = self.on and self.begun is not None and OPEN not in thought
        if not closed or nobody_opened:
            return None
        return rest.partition(CLOSE)[0].partition(OPEN)[0]  # a second `</think>` ends the solution, as in the paper

    @property
    def asks(self) -> bool:
        """True where every response must close a thought."""
        return self.on or (self.on is None and self.begun == OPEN)

    @property
    def empty_thought(self) -> str:
        """What a right response without thoughts begins with."""
        if not self.asks or CLOSE in (self.begun or ""):
            return ""
        return f"{'' if self.begun == OPEN else OPEN}\n{CLOSE}\n\n"

    def parts(self, accuracy: float, *, passed: bool = True) -> dict[str, float]:
        """Named parts of the reward: the accuracy, and the format where every response must close a thought."""
        return {"accuracy": accuracy, "format": float(passed)} if self.asks else {"accuracy": accuracy}

    def refusal(self) -> Verdict:
        """The verdict on a response without a closed thought."""
        return Verdict(0.0, UNPARSABLE, detail=NO_THOUGHT, parts=self.parts(0.0, passed=False))


def thought_begun(prompt: str) -> str:
    """What of a thought stands at the end of a prompt: `<think>`, `<think></think>`, or "" for none."""
    end = prompt.rstrip()
    if end.endswith(OPEN):
        return OPEN
    if end.endswith(CLOSE) and end.removesuffix(CLOSE).rstrip().endswith(OPEN):
        return f"{OPEN}{CLOSE}"
    return ""
