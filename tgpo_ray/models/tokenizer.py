"""The part of a Hugging Face tokenizer that this package uses, and the one place where tokenizers are loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tgpo_ray.models.folder import local_model


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


def load_tokenizer(
    path: str,
    *,
    trust_remote_code: bool,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    local_files_only: bool = False,
) -> Any:
    """Returns the tokenizer of a folder or Hugging Face id. Every tokenizer of the package comes from here.

    Args:
        chat_template_kwargs: values that its chat template gets at every rendering.
        local_files_only: download nothing.

    Raises:
        Exception: OSError, ValueError, ImportError and what a tokenizer's own parser or code raises.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        local_model(path), trust_remote_code=trust_remote_code, local_files_only=local_files_only
    )
    return with_template_values(tokenizer, chat_template_kwargs or {})


def with_template_values(tokenizer: Any, values: Mapping[str, Any]) -> Any:
    """Returns the tokenizer with `values` for its chat template at every rendering, or itself without values."""
    return _WithTemplateValues(tokenizer, values) if values else tokenizer


class _WithTemplateValues:
    """A tokenizer that is another one but for its chat template. The other one stays as it is: engines share theirs."""

    def __init__(self, tokenizer: Any, values: Mapping[str, Any]) -> None:
        self._tokenizer, self._values = tokenizer, dict(values)

    def apply_chat_template(self, messages: Any, **options: Any) -> Any:
        return self._tokenizer.apply_chat_template(messages, **self._values, **options)

    def __call__(self, *texts: Any, **options: Any) -> Any:
        return self._tokenizer(*texts, **options)

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __getattr__(self, name: str) -> Any:
        if name in ("_tokenizer", "_values"):  # while it is being unpickled
            raise AttributeError(name)
        return getattr(self._tokenizer, name)
