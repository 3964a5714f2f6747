"""The LM head of a model, read from its folder without the rest of the model."""

from __future__ import annotations

import json
from pathlib import Path

from torch import Tensor

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
NAMES = ("lm_head.weight", "model.embed_tokens.weight")  # the second where the head is tied to the embedding


def head_weight(path: str, *, trust_remote_code: bool = False) -> Tensor:
    """Returns the weight of the LM head, (V, D) in the folder's own dtype.

    Raises:
        ValueError: the folder has no safetensors, or no head under a known name.
    """
    from safetensors import safe_open
    from transformers import AutoConfig

    tied = getattr(AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code), "tie_word_embeddings", False)
    names = NAMES[::-1] if tied else NAMES  # a tied model never reads a stored head
    files = _files_by_name(path)
    for name in names:
        if name in files:
            with safe_open(files[name], framework="pt") as tensors:
                return tensors.get_tensor(name)
    raise ValueError(f"{path}: found none of {', '.join(names)} in its safetensors, so its LM head is not known")


def _files_by_name(path: str) -> dict[str, str]:
    """Returns the path of the file in which each tensor is stored, by the tensor's name."""
    from safetensors import safe_open
    from transformers.utils import cached_file

    index = cached_file(path, INDEX, _raise_exceptions_for_missing_entries=False)
    if index is not None:
        names: dict[str, str] = json.loads(Path(index).read_text())["weight_map"]
        wanted = {name: file for name, file in names.items() if name in NAMES}
        return {name: str(cached_file(path, file)) for name, file in wanted.items()}
    single = cached_file(path, SINGLE, _raise_exceptions_for_missing_entries=False)
    if single is None:
        raise ValueError(f"{path} has neither {INDEX} nor {SINGLE}: the LM head is read from safetensors")
    with safe_open(single, framework="pt") as tensors:
        return dict.fromkeys(tensors.keys(), str(single))
