"""The tokens on which a model stops."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgpo_ray.models.folder import model_facts
from tgpo_ray.models.tokenizer import load_tokenizer

if TYPE_CHECKING:
    from tgpo_ray.models.tokenizer import Tokenizer


def end_of_sequence_ids(
    path: str, tokenizer: Tokenizer | str | None = None, *, trust_remote_code: bool = False
) -> tuple[int, ...]:
    """Returns the ids that end a sequence.

    They come from the folder's generation config. Without one, the tokenizer's end of sequence is the only id, and
    without that the ids of config.json count, as for vLLM.

    Args:
        path: folder or id of the model.
        tokenizer: a loaded tokenizer, or the folder or id to load it from. None means `path`.
    """
    from transformers import GenerationConfig

    try:
        ids = GenerationConfig.from_pretrained(path).eos_token_id
    except OSError:  # a folder without generation_config.json
        ids = None
    if ids is None:
        if tokenizer is None or isinstance(tokenizer, str):
            loaded: Tokenizer = load_tokenizer(tokenizer or path, trust_remote_code=trust_remote_code)
        else:
            loaded = tokenizer
        ids = loaded.eos_token_id
    if ids is None:
        ids = model_facts(path, {}).get("eos_token_id")
    # transformers allows one id as well as a list of them
    return () if ids is None else (ids,) if isinstance(ids, int) else tuple(ids)


def end_of_response(path: str, tokenizer: Tokenizer) -> int:
    """Returns the id that ends a response which a text was made of: the tokenizer's end of sequence.

    Without one, it is the first of the folder's generation config.

    Raises:
        ValueError: neither names one.
    """
    if tokenizer.eos_token_id is not None:
        return tokenizer.eos_token_id
    ids = end_of_sequence_ids(path, tokenizer)
    if not ids:
        raise ValueError(no_end_problem("model", path))
    return ids[0]


def no_end_problem(where: str, path: str) -> str:
    """Returns what is said of a model that names no end of sequence. `where`: its section, for messages."""
    return (
        f"{where}.path: {path} names no end of sequence, so that no response would end before max_response_tokens: "
        "write eos_token_id into its generation_config.json, or eos_token into the tokenizer_config.json of "
        f"{where}.tokenizer"
    )
