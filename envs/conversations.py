"""Problems that the data set has as a conversation."""

from __future__ import annotations

from collections.abc import Sequence

from .base import Message

Prompt = str | Sequence[Message]
"""A text, or the messages of a conversation."""


def text_of(prompt: Prompt) -> str:
    """The text itself, or the contents of the messages."""
    return prompt if isinstance(prompt, str) else "\n\n".join(message["content"] for message in prompt)


def continued(prompt: Prompt, text: str) -> Prompt:
    """The prompt with `text` at its end, in a conversation at the end of the last message."""
    if isinstance(prompt, str):
        return f"{prompt}{text}"
    last = prompt[-1]
    return (*prompt[:-1], {**last, "content": f"{last['content']}{text}"})


def with_system(prompt: Sequence[Message], system_prompt: str | None) -> tuple[Message, ...]:
    """The messages with another system message at their start; None: as they are."""
    if system_prompt is None:
        return tuple(prompt)
    others = [message for message in prompt if message["role"] != "system"]
    return ({"role": "system", "content": system_prompt}, *others)
