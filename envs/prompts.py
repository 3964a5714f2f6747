r"""Prompt templates for problems that end in a `\boxed{}` answer.

plain   text that a base model can continue
think   system paragraph, problem, and an opened `<think>` section, as text (Teacher-Guided Policy Optimization,
        appendix B.2, in our words); the response starts inside the thought
chat    messages, which the runner renders with the model's chat template
other   a template of the user's own that contains `{problem}`
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

STYLES = ("plain", "think", "chat")
THINK_OPEN, THINK_CLOSE = "<think>\n", "</think>"
FIELD = "{problem}"

ANSWER_INSTRUCTION = r"Reason step by step, and put your final answer within \boxed{}."

THINK_SYSTEM = (
    "Work on the user's problem with a systematic and thorough reasoning process before you settle on an answer. "
    "Analyse what is asked, summarise what is known, explore possible approaches, reassess intermediate results, and "
    "refine or give up steps that do not hold; go through as many such rounds as the problem needs. Write your reply "
    "in two sections, Thought and Solution. The Thought section holds the whole reasoning process, in the form "
    "<think>\n{your thoughts, step by step}\n</think>\n. The Solution section comes after it: give a clear and exact "
    r"solution there, drawn from your thoughts, and put the final answer in \boxed{} where it has a closed form."
)


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """How a problem becomes a prompt. `prompt` is a name of `STYLES` or a text with `{problem}` in it.

    Raises:
        ValueError: for any other `prompt`.
    """

    prompt: str = "plain"
    system_prompt: str | None = None  # None: the style's own

    def __post_init__(self) -> None:
        if self.prompt in STYLES or FIELD in self.prompt:
            return
        near = difflib.get_close_matches(self.prompt, STYLES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"prompt must be {', '.join(STYLES)} or a text with {FIELD} in it, got {self.prompt!r}{hint}")

    @property
    def opens_thought(self) -> bool:
        r"""True where the prompt ends in `<think>\n`, so that the response starts inside the thought."""
        return self.prompt == "think" or self.prompt.endswith(THINK_OPEN)

    def text(self, problem: str) -> str:
        """The prompt as text; for `chat`, the user's message."""
        if self.prompt == "plain":
            return f"{self._paragraph()}Problem:\n{problem}\n\n{ANSWER_INSTRUCTION}\n\nSolution:\n"
        if self.prompt == "think":
            return f"{self._paragraph(THINK_SYSTEM)}User: {problem}\n\nAssistant: {THINK_OPEN}"
        if self.prompt == "chat":
            return f"{problem}\n\n{ANSWER_INSTRUCTION}"
        return self._paragraph() + self.prompt.replace(FIELD, problem)  # not str.format: \boxed{} has braces too

    def messages(self, problem: str) -> tuple[dict[str, str], ...] | None:
        """System and user messages for `chat`, else None."""
        if self.prompt != "chat":
            return None
        user = {"role": "user", "content": self.text(problem)}
        return (user,) if not self.system_prompt else ({"role": "system", "content": self.system_prompt}, user)

    def _paragraph(self, default: str = "") -> str:
        system = default if self.system_prompt is None else self.system_prompt
        return f"{system}\n\n" if system else ""


def after_thought(response: str, *, opened: bool) -> str | None:
    """What the format gate reads: the text between the first `</think>` and the next; None without a closed thought.

    Args:
        response: what the policy wrote.
        opened: the prompt ends in `<think>`, which counts as if the response began with it.
    """
    full = (THINK_OPEN if opened else "") + response
    if THINK_OPEN.strip() not in full or THINK_CLOSE not in full:
        return None
    return full.split(THINK_CLOSE)[1]


def empty_thought(*, opened: bool) -> str:
    """What a response without thoughts begins with to pass the gate."""
    return f"{'' if opened else THINK_OPEN}\n{THINK_CLOSE}\n\n"
