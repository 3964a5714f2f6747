"""The LM head of a model, read from its folder without the rest of the model."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tgpo_ray.models.folder_tensors import stored_layout

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


@dataclass(frozen=True)
class StoredHead:
    """Where a folder stores the tensors of its model's LM head."""

    weight: tuple[str, str]  # name of the tensor, path of the file
    bias: tuple[str, str] | None

    def read(self) -> tuple[Tensor, Tensor | None]:
        """Returns the weight (V, D) and the bias (V,) in the folder's own dtype."""
        return _read(*self.weight), None if self.bias is None else _read(*self.bias)


def find_head(path: str, *, trust_remote_code: bool = False) -> StoredHead:
    """Returns where the LM head of the model at `path` is stored. The model's class says what the tensors are called.

    Raises:
        ValueError: the folder has no safetensors, or not the tensors of the head that its architecture has.
    """
    names = _head_names(path, trust_remote_code=trust_remote_code)
    files = _files_by_name(path)
    found = {part: next((name for name in names[part] if name in files), None) for part in names}
    for part, name in found.items():
        if name is None:
            raise ValueError(
                f"{path}: found none of {', '.join(names[part])} in its safetensors, so the {part} of its LM head is "
                "not known"
            )
    places = {part: (name, files[name]) for part, name in found.items() if name is not None}
    return StoredHead(places["weight"], places.get("bias"))


def _head_names(path: str, *, trust_remote_code: bool) -> dict[str, list[str]]:
    """Names under which weight and bias may be stored, by part; a model without a bias has no entry for it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model: Any = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code), trust_remote_code=trust_remote_code
        )
    head = model.get_output_embeddings()
    if head is None:
        raise ValueError(f"{path}: {type(model).__name__} has no LM head")
    names = {"weight": _names_of(model, head.weight)}
    if getattr(head, "bias", None) is not None:
        names["bias"] = _names_of(model, head.bias)
    return names


def _names_of(model: Any, parameter: Tensor) -> list[str]:
    """Names of a parameter, that of the input embedding first: a tied model never reads a stored head."""
    embedding = model.get_input_embeddings()
    every = model.named_parameters(remove_duplicate=False)
    names = [name for name, value in every if value is parameter]
    inputs = {f"{prefix}.weight" for prefix, module in model.named_modules() if module is embedding}
    names.sort(key=lambda name: name not in inputs)
    # the names of a checkpoint are others in some architectures, as GPT-NeoX's `embed_out`
    names = [stored for name in names for stored in dict.fromkeys([*stored_layout(model, {name: parameter}), name])]
    # folders of the trunk alone, as GPT-2's, leave out the trunk's prefix
    prefix = f"{model.base_model_prefix}."
    return names + [name.removeprefix(prefix) for name in names if name.startswith(prefix)]


def _read(name: str, file: str) -> Tensor:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        return tensors.get_tensor(name)


def _files_by_name(path: str) -> dict[str, str]:
    """Returns the path of the file in which each tensor is stored, by the tensor's name."""
    from safetensors import safe_open
    from transformers.utils import cached_file

    index = cached_file(path, INDEX, _raise_exceptions_for_missing_entries=False)
    if index is not None:
        names: dict[str, str] = json.loads(Path(index).read_text())["weight_map"]
        return _Files(path, names)
    single = cached_file(path, SINGLE, _raise_exceptions_for_missing_entries=False)
    if single is None:
        raise ValueError(f"{path} has neither {INDEX} nor {SINGLE}: the LM head is read from safetensors")
    with safe_open(single, framework="pt") as tensors:
        return dict.fromkeys(tensors.keys(), str(single))


class _Files(dict[str, str]):
    """Name of a tensor -> the file's path. A file of the index is looked up, and downloaded, where it is asked for."""

    def __init__(self, path: str, names: dict[str, str]) -> None:
        super().__init__(names)
        self._path = path

    def __getitem__(self, name: str) -> str:
        from transformers.utils import cached_file

        return str(cached_file(self._path, super().__getitem__(name)))
