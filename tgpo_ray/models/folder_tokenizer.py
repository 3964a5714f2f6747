"""Whether a folder's tokenizer fits its model: every id has an embedding, and there is an end of sequence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from tgpo_ray.models.end_of_sequence import end_of_sequence_ids
from tgpo_ray.models.folder_tensors import MetaModel
from tgpo_ray.models.tokenizer import load_tokenizer

# special tokens that stand for pictures and sounds; a model of text has no embedding for them (Gemma 3)
MEDIA = re.compile(r"image|video|audio|vision|sound", re.IGNORECASE)


def tokenizer_problems(
    folder: Path, weights: Path | None, loaded: MetaModel | None, *, trust_remote_code: bool = False
) -> list[str]:
    """Returns what is wrong with the tokenizer in `folder` as one for the model in `weights`.

    Args:
        weights: None where another machine has them.
        loaded: the model's headers; None where they are not known.
    """
    try:
        tokenizer = load_tokenizer(str(folder), trust_remote_code=trust_remote_code)
    except Exception as error:  # whatever tokenizers, sentencepiece or code of the model raise
        lines = str(error).strip().splitlines() or [""]
        return [f"its tokenizer cannot be read ({type(error).__name__}: {lines[0]}): download it again"]
    problems = []
    if loaded is not None:
        problems += _without_embedding(tokenizer, loaded.vocabulary)
    if tokenizer.eos_token_id is None and not _model_has_end(weights or folder, tokenizer):
        problems.append(
            "its tokenizer has no end of sequence, and generation_config.json names none: no response would end; write "
            "eos_token into tokenizer_config.json"
        )
    return problems


def _model_has_end(folder: Path, tokenizer: Any) -> bool:
    return bool(end_of_sequence_ids(str(folder), tokenizer))


def _without_embedding(tokenizer: Any, rows: int) -> list[str]:
    if len(tokenizer) <= rows:
        return []
    beyond = {token: i for token, i in tokenizer.get_vocab().items() if i >= rows}
    special = set(tokenizer.all_special_tokens)
    beyond = {token: i for token, i in beyond.items() if not (token in special and MEDIA.search(token))}
    if not beyond:
        return []
    token, token_id = min(beyond.items(), key=lambda item: item[1])
    return [
        f"its tokenizer has {len(tokenizer)} tokens and the embeddings of the model have {rows} rows: {token!r} is "
        f"{token_id}, a row that is not there. Take the model's own tokenizer, or widen the embeddings "
        "(resize_token_embeddings, then save_pretrained)"
    ]
