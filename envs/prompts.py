r"""Prompt templates for problems that end in a `\boxed{}` answer.

plain   text that a base model can continue
think   system paragraph, problem, and an opened `<think>` section, as text (Teacher-Guided Policy Optimization,
        appendix B.2, reworded). The response starts inside the thought
chat    messages, which the runner renders with the model's chat template
qwen_math, r1, prime_zero   what released checkpoints were trained with (checkpoint_prompts.py)
other   a template of the user's own that contains `{problem}`
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .base import Message, Problem
from .checkpoint_prompts import CHECKPOINT_PROMPTS, FIELD
from .conversations import Prompt, text_of, with_system
from .format_gate import OPEN, thought_begun
from .hints import nearest

STYLES = ("plain", "think", "chat", *CHECKPOINT_PROMPTS)
THINK_OPEN = f"{OPEN}\n"

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
        hint = nearest(self.prompt, STYLES)
        raise ValueError(f"prompt must be {', '.join(STYLES)} or a text with {FIELD} in it, got {self.prompt!r}{hint}")

    @property
    def opens_thought(self) -> bool:
        r"""True where the style ends in `<think>`, so that the response starts inside the thought."""
        return self.prompt == "think" or thought_begun(self._template) == OPEN

    def problem(self, text: str, answer: str, /, **extra: Any) -> Problem:
        """A problem whose prompt is made of `text`; `extra` is what the verifier needs besides the answer."""
        return Problem(self.text(text), answer, self.messages(text), extra)

    def problem_of(self, prompt: Prompt, answer: str, /, **extra: Any) -> Problem:
        """`problem` of a text. A conversation of the data set stays as it is, but for `system_prompt`.

        Raises:
            ValueError: for a conversation under a style that makes text.
        """
        if isinstance(prompt, str):
            return self.problem(prompt, answer, **extra)
        if self.prompt not in ("plain", "chat", FIELD):  # those leave the data set's own words alone
            raise ValueError(
                f"the problem is a conversation, and prompt: {self.prompt!r} makes text of it: write prompt: chat, or "
                "name the text of a message, as `columns: {problem: prompt.0.content}`"
            )
        messages = with_system(prompt, self.system_prompt)
        return Problem(text_of(prompt), answer, messages, extra)

    def text(self, problem: str) -> str:
        """The prompt as text; for `chat`, the user's message."""
        if self.prompt == "plain":
            return f"{self._paragraph()}Problem:\n{problem}\n\n{ANSWER_INSTRUCTION}\n\nSolution:\n"
        if self.prompt == "think":
            return f"{self._paragraph(THINK_SYSTEM)}User: {problem}\n\nAssistant: {THINK_OPEN}"
        if self.prompt == "chat":
            return f"{problem}\n\n{ANSWER_INSTRUCTION}"
        return self._paragraph() + self._template.replace(FIELD, problem)  # not str.format: \boxed{} has braces too

    @property
    def _template(self) -> str:
        return CHECKPOINT_PROMPTS.get(self.prompt, self.prompt)

    def messages(self, problem: str) -> tuple[Message, ...] | None:
        """System and user messages for `chat`, else None.

        `system_prompt: ""` is an empty system message: a template with a text of its own writes that only where there
        is no message.
        """
        if self.prompt != "chat":
            return None
        user = {"role": "user", "content": self.text(problem)}
        return (user,) if self.system_prompt is None else ({"role": "system", "content": self.system_prompt}, user)

    def _paragraph(self, default: str = "") -> str:
        system = default if self.system_prompt is None else self.system_prompt  # "" leaves the paragraph out
        return f"{system}\n\n" if system else ""
