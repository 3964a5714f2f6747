"""Problems whose prompt is text or messages, as the data sets of other libraries have it."""

from __future__ import annotations

from typing import Any

from .base import Message, Problem


def problem_of(prompt: str | list[Message], answer: Any, /, **extra: Any) -> Problem:
    """A problem whose prompt is text, or messages that the model's chat template renders."""
    answer = "" if answer is None else str(answer)
    if isinstance(prompt, str):
        return Problem(prompt, answer, extra=extra)
    messages = tuple({"role": str(message["role"]), "content": str(message["content"])} for message in prompt)
    return Problem("\n\n".join(message["content"] for message in messages), answer, messages, extra)
