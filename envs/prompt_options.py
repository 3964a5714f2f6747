"""Options of the prompt, for environments whose problems are text."""

from __future__ import annotations

from dataclasses import dataclass

from .format_gate import FormatGate
from .options import Options
from .prompts import PromptTemplate


@dataclass(frozen=True, kw_only=True)
class PromptOptions(Options):
    """How a problem becomes a prompt, and what of the response is read.

    Raises:
        ValueError: for an unknown style.
    """

    prompt: str = "plain"
    """`plain` (text to continue), `think` (the paper's: system paragraph, problem, an opened `<think>`), `chat`
    (messages for the model's chat template), `qwen_math`, `r1` or `prime_zero` (those of released checkpoints), or a
    text with `{problem}` in it."""
    system_prompt: str | None = None
    """Replaces the system paragraph of the style. "" means none, also none of the chat template's own."""
    format_gate: bool | None = None
    """true: a response scores only when it closes a thought, and only what follows `</think>` is read. null: the same
    where the prompt, as the model reads it, or the response opens a thought. false: the whole response is read."""

    def __post_init__(self) -> None:
        super().__post_init__()
        PromptTemplate(self.prompt, self.system_prompt)  # raises for an unknown style

    @property
    def template(self) -> PromptTemplate:
        """The prompt of any problem."""
        return PromptTemplate(self.prompt, self.system_prompt)

    @property
    def gate(self) -> FormatGate:
        """The format gate. Each `reset`, and a runner that has rendered the chat, tells it what the prompt begins."""
        gate = FormatGate(self.format_gate)
        return gate if self.prompt == "chat" else gate.after(self.template.text(""))
