"""Prompt and answer of a row, where other libraries' data sets hold a prompt as text or as messages."""

from __future__ import annotations

from typing import Any

from .base import Message, Problem


def problem_of(prompt: str | list[Message], answer: Any, **extra: Any) -> Problem:
    """A problem whose prompt is text, or messages that the model's chat template is to render."""
    answer = "" if answer is None else str(answer)
    if isinstance(prompt, str):
        return Problem(prompt, answer, extra=extra)
    messages = tuple({"role": str(message["role"]), "content": str(message["content"])} for message in prompt)
    return Problem("\n\n".join(message["content"] for message in messages), answer, messages, extra)
