"""The tokens of a text that the model is to continue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tgpo_ray.models.tokenizer import Tokenizer


def whole_text(text: str) -> str:
    """Returns the text with U+FFFD for each half of a character (a lone surrogate), which no tokenizer or file takes.

    JSON can spell such a half, as `"\\ud83d"`. Two halves that belong together become the character.
    """
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def text_prompt_ids(tokenizer: Tokenizer, prompt: str) -> list[int]:
    """Returns the ids of a text to continue: what the tokenizer puts before it, and nothing behind it.

    A text that begins with the beginning of sequence gets no second one. An end of sequence behind the prompt, as some
    tokenizers append it, would tell the policy that everything has been said.
    """
    prompt = whole_text(prompt)
    with_special = tokenizer.encode(prompt, add_special_tokens=True)
    return without_end(tokenizer, list(with_special), list(tokenizer.encode(prompt, add_special_tokens=False)))


def without_end(tokenizer: Tokenizer, ids: list[int], plain: list[int]) -> list[int]:
    """Returns the ids of a text to continue, without what the tokenizer puts behind it.

    Args:
        ids, plain: the text with special tokens and without.
    """
    for start in range(len(ids) - len(plain) + 1 if plain else 0):
        if ids[start : start + len(plain)] == plain:
            return without_second_beginning(tokenizer, ids[: start + len(plain)])
    # the tokenizer writes the text itself in another way: only an end of sequence is known to be no part of it
    end = getattr(tokenizer, "eos_token_id", None)
    while ids and ids[-1] == end and (not plain or plain[-1] != end):
        ids.pop()
    return without_second_beginning(tokenizer, ids)


def without_second_beginning(tokenizer: Tokenizer, ids: Sequence[int]) -> list[int]:
    """Returns the ids without a second beginning of sequence at their start."""
    first = 0
    while list(ids[first : first + 2]) == [getattr(tokenizer, "bos_token_id", None)] * 2:
        first += 1
    return list(ids[first:])
