"""The part of a Hugging Face tokenizer that this package uses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np


class Tokenizer(Protocol):
    """A tokenizer of transformers, or any object with these methods."""

    chat_template: Any  # a Jinja text, or None
    eos_token_id: Any  # int, or None where it has no end of sequence
    all_special_ids: Any  # list of int

    def encode(self, text: str, *, add_special_tokens: bool = ...) -> list[int]: ...

    def decode(self, ids: Sequence[int] | np.ndarray, **options: Any) -> Any: ...

    def apply_chat_template(self, messages: Any, **options: Any) -> Any: ...


class VocabularyTokenizer(Tokenizer, Protocol):
    """A tokenizer that lists its whole vocabulary."""

    def get_vocab(self) -> Mapping[str, int]: ...

    def convert_tokens_to_string(self, tokens: Iterable[str]) -> str: ...
