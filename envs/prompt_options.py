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
    (messages for the model's chat template), or a text with `{problem}` in it."""
    system_prompt: str | None = None
    """Replaces the system paragraph of the style. "" drops it."""
    format_gate: bool | None = None
    """A response scores only when it closes its thought, and only what follows `</think>` is read. null: on for prompts
    that open the thought."""

    def __post_init__(self) -> None:
        super().__post_init__()
        PromptTemplate(self.prompt, self.system_prompt)  # raises for an unknown style

    @property
    def template(self) -> PromptTemplate:
        """The prompt of any problem."""
        return PromptTemplate(self.prompt, self.system_prompt)

    @property
    def gate(self) -> FormatGate:
        """The format gate, on or off."""
        opened = self.template.opens_thought
        return FormatGate(on=opened if self.format_gate is None else self.format_gate, opened=opened)
