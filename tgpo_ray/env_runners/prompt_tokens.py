"""The prompt as the model reads it: its tokens, without what a tokenizer adds twice or behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tgpo_ray.models import text_prompt_ids, whole_text, without_end, without_second_beginning

if TYPE_CHECKING:
    from tgpo_ray.models import Tokenizer

Message = Mapping[str, Any]
"""One chat message: `role` and `content`."""

NO_TOKENS = "the prompt has no token, so there is nothing to continue: fill the problem in, or leave it out of the data"
OVERLONG_FIX = (
    "raise it (the model's context permitting), leave such problems out of the data, or write "
    "env_runners.overlong_prompts: drop"
)


def prompt_ids(tokenizer: Tokenizer, prompt: str, info: dict[str, Any]) -> np.ndarray:
    """Returns (P,) int32, the first observation for the model. Messages in `info` go through its chat template.

    Raises:
        ValueError: `info` has messages and the tokenizer has no chat template.
    """
    messages = conversation_of(tokenizer, info)
    if messages is None:
        return np.asarray(text_prompt_ids(tokenizer, prompt), np.int32)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    return np.asarray(without_second_beginning(tokenizer, ids), np.int32)


def prompt_lengths(tokenizer: Any, prompts: Sequence[tuple[str, dict[str, Any]]]) -> list[int]:
    """Returns the number of tokens of each prompt, as `prompt_ids` would count them one by one.

    A tokenizer of transformers takes a batch at a time, which is several times faster.

    Args:
        prompts: text and `info` of each.
    """
    takes_batches = callable(tokenizer)
    if not takes_batches:
        return [len(prompt_ids(tokenizer, text, info)) for text, info in prompts]
    chats = [conversation_of(tokenizer, info) for _, info in prompts]
    texts = [whole_text(text) for (text, _), chat in zip(prompts, chats, strict=True) if chat is None]
    of_texts = iter(_text_lengths(tokenizer, texts))
    of_chats = iter(_chat_lengths(tokenizer, [chat for chat in chats if chat is not None]))
    return [next(of_texts if chat is None else of_chats) for chat in chats]


def _text_lengths(tokenizer: Any, texts: list[str]) -> list[int]:
    if not texts:
        return []
    plain = _encoded(tokenizer, texts, special=False)
    special = _encoded(tokenizer, texts, special=True)
    return [len(without_end(tokenizer, list(ids), list(own))) for ids, own in zip(special, plain, strict=True)]


def _chat_lengths(tokenizer: Any, chats: list[list[Message]]) -> list[int]:
    texts = [tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False) for chat in chats]
    rows = _encoded(tokenizer, texts, special=False) if texts else []
    return [len(without_second_beginning(tokenizer, ids)) for ids in rows]


def _encoded(tokenizer: Any, texts: list[str], *, special: bool) -> list[list[int]]:
    return tokenizer(texts, add_special_tokens=special, return_attention_mask=False, verbose=False)["input_ids"]


def conversation_of(tokenizer: Tokenizer, info: Mapping[str, Any]) -> list[Message] | None:
    """Returns the messages of a prompt as the chat template gets them, or None where the prompt is text.

    Raises:
        ValueError: there are messages, and the tokenizer has no chat template.
    """
    if info.get("messages") is None:
        return None
    if tokenizer.chat_template is None:
        raise ValueError(
            "the prompt is a chat, and the tokenizer has no chat template: use prompt: plain, or set "
            "model.tokenizer to a folder whose tokenizer has one"
        )
    return system_settled(tokenizer, whole_messages(info["messages"]))


def whole_messages(messages: Sequence[Message]) -> list[Message]:
    """Returns the messages with `whole_text` of every text in them."""
    return [{key: _whole(value) for key, value in message.items()} for message in messages]


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, Mapping):
        return {key: _whole(item) for key, item in value.items()}
    return [_whole(item) for item in value] if isinstance(value, list | tuple) else value


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
