"""The tokens on which a model stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tgpo_ray.models.tokenizer import Tokenizer


def end_of_sequence_ids(
    path: str, tokenizer: Tokenizer | str | None = None, *, trust_remote_code: bool = False
) -> tuple[int, ...]:
    """Returns the ids that end a sequence.

    They come from the folder's generation config. Without one, the tokenizer's end of sequence is the only id.

    Args:
        path: folder or id of the model.
        tokenizer: a loaded tokenizer, or the folder or id to load it from. None means `path`.
    """
    from transformers import AutoTokenizer, GenerationConfig

    try:
        ids = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:  # a folder without generation_config.json
        ids = None
    if ids is None:
        if tokenizer is None or isinstance(tokenizer, str):
            loaded: Tokenizer = AutoTokenizer.from_pretrained(tokenizer or path, trust_remote_code=trust_remote_code)
        else:
            loaded = tokenizer
        ids = loaded.eos_token_id
    # transformers allows one id as well as a list of them
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)
