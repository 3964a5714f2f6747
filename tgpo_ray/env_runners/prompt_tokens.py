"""The prompt as the model reads it: its tokens, without what a tokenizer adds twice or behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tgpo_ray.models import text_prompt_ids, without_second_beginning

if TYPE_CHECKING:
    from tgpo_ray.models import Tokenizer

Message = Mapping[str, Any]
"""One chat message: `role` and `content`."""


def prompt_ids(tokenizer: Tokenizer, prompt: str, info: dict[str, Any]) -> np.ndarray:
    """Returns (P,) int32, the first observation for the model. Messages in `info` go through its chat template.

    Raises:
        ValueError: `info` has messages and the tokenizer has no chat template.
    """
    if info.get("messages") is not None:
        if tokenizer.chat_template is None:
            raise ValueError(
                "the prompt is a chat, and the tokenizer has no chat template: use prompt: plain, or set "
                "model.tokenizer to a folder whose tokenizer has one"
            )
        messages = system_settled(tokenizer, info["messages"])
        ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        return np.asarray(without_second_beginning(tokenizer, ids), np.int32)
    return np.asarray(text_prompt_ids(tokenizer, prompt), np.int32)


def system_settled(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[Message]:
    """Returns the messages, without an empty system message at their start where the template can do without it.

    Some templates write a system text of their own unless there is a system message. For these the empty message stays,
    which replaces that text. For others it would add an empty turn, or an error.
    """
    messages = list(messages)
    if len(messages) < 2 or messages[0].get("role") != "system" or messages[0].get("content") != "":
        return messages
    try:
        empty, none = (
            tokenizer.apply_chat_template(given, add_generation_prompt=True, tokenize=False)
            for given in (messages, messages[1:])
        )
    except Exception:  # what templates raise for a role that they do not know
        return messages[1:]
    return messages if len(empty) < len(none) else messages[1:]
