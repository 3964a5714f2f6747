"""The policy as a Hugging Face folder: written beside its place, read back, and moved into it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tgpo_ray.cluster import copy_over, local_path, move_into_place, refuse_foreign_folder, staging_folder
from tgpo_ray.models import (
    ADAPTER_WEIGHTS,
    load_headers,
    load_tokenizer,
    saved_buffers,
    stored_layout,
    stored_tensors,
    tensor_problems,
    weight_files,
    write_adapter,
)


class ExportError(RuntimeError):
    """What was written is not the model. The folder that was there before is as it was."""


@dataclass(frozen=True)
class ExportedModel:
    """A model with the values that its export gets.

    Args:
        weights: (Hugging Face name -> weight on the CPU): parameters in `dtype`, and the buffers that belong to the
            model, such as the correction bias of a mixture's router, in their own.
        source: folder or id of the model that training began with.
    """

    model: Any
    weights: Mapping[str, Tensor]
    dtype: torch.dtype
    source: str
    tokenizer: str
    trust_remote_code: bool = False


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Returns a copy of the buffers that are part of the model, by Hugging Face name.

    Called before a strategy casts the module: a router's correction bias of DeepSeek-V3 stays float32.
    """
    return {name: buffer.to("cpu", copy=True) for name, buffer in saved_buffers(model)}


def export_model(exported: ExportedModel, path: str) -> None:
    """Write the model to a folder or a URI.

    A folder that is there keeps its weights until the new ones have been read back. Then it is renamed, the new one
    takes its name, and it is deleted: a process that is killed leaves one of the two whole. A URI has no renaming, so
    there the files are replaced one by one, and then those that are left over from an earlier model are deleted.

    Raises:
        ValueError: the folder holds something else than a model.
        ExportError: what was read back is not what was written.
    """
    _replace(path, lambda folder: write_checked(exported, folder))


def export_adapter(config: Mapping[str, Any], tensors: Mapping[str, Tensor], path: str) -> None:
    """Write an adapter to a folder or a URI, as `export_model` does a model, without the model below it.

    Args:
        config: adapter_config.json.
        tensors: (peft's name -> A or B on the CPU).

    Raises:
        ValueError, ExportError: as for a model.
    """

    def write(folder: Path) -> None:
        write_adapter(folder, config, tensors)
        problems = _other_values([folder / ADAPTER_WEIGHTS], tensors)
        if problems or stored_tensors([folder / ADAPTER_WEIGHTS]).keys() != tensors.keys():
            raise ExportError(f"the export is not the adapter, and nothing was replaced: {'; '.join(problems)}")

    _replace(path, write)


def _replace(path: str, write: Callable[[Path], None]) -> None:
    """Have `write` fill an empty folder, and put that in the place of what is at `path`."""
    refuse_foreign_folder(path)
    target = local_path(path)
    if target is None:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder))
            copy_over(folder, path)
        return
    with staging_folder(target) as folder:
        write(folder)
        move_into_place(folder, target)


def write_checked(exported: ExportedModel, folder: Path) -> None:
    """Write weights, config, generation config and tokenizer into an empty folder, and read them back."""
    _save_model(exported, folder)
    _set_dtype(folder / "config.json", exported.dtype)
    tokenizer = load_tokenizer(exported.tokenizer, trust_remote_code=exported.trust_remote_code)
    tokenizer.save_pretrained(folder)
    problems = read_back_problems(exported, folder)
    if problems:
        raise ExportError(f"the export is not the model, and nothing was replaced: {'; '.join(problems)}")


def _save_model(exported: ExportedModel, folder: Path) -> None:
    """Write weights in the layout of a checkpoint, config and generation config.

    A generation config that transformers calls invalid (a temperature with `do_sample: false`, as some models ship it)
    would end the export with an error. The file of the source is kept then.
    """
    from transformers import GenerationConfig

    model, own = exported.model, getattr(exported.model, "generation_config", None)
    invalid = _invalid(own)
    if invalid:
        ids = {name: getattr(own, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        model.generation_config = GenerationConfig(**ids)
    try:
        # a copy, because transformers empties the dictionary that it gets
        model.save_pretrained(folder, state_dict=dict(exported.weights))
    finally:
        if invalid:
            model.generation_config = own
    if invalid and own is not None:
        (folder / "generation_config.json").write_text(own.to_json_string(), encoding="utf-8")
        print(f"WARNING: generation_config.json of {exported.source} is kept, though invalid: {invalid}", flush=True)


def _invalid(generation_config: Any) -> str:
    """Returns why transformers would refuse to save the generation config, or an empty text."""
    try:
        if generation_config is not None:
            generation_config.validate(strict=True)
    except ValueError as error:
        return str(error).strip().replace("\n", " ")
    return ""


def _set_dtype(file: Path, dtype: torch.dtype) -> None:
    """Make the configuration name the dtype of the weights: that of the module is float32 under autocast."""
    config = json.loads(file.read_text(encoding="utf-8"))
    name = str(dtype).removeprefix("torch.")
    for part in (config, *(it for it in config.values() if isinstance(it, dict))):
        for key in ("dtype", "torch_dtype"):
            if key in part:
                part[key] = name
    config["dtype"] = name
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def read_back_problems(exported: ExportedModel, folder: Path) -> list[str]:
    """Returns what in the folder is not the model: names, shapes, dtypes and values of tensors, config, tokenizer."""
    load_tokenizer(str(folder), trust_remote_code=exported.trust_remote_code)
    problems = _architecture_problems(exported, folder)
    ignored = set(getattr(exported.model, "_keys_to_ignore_on_save", None) or ())
    weights = {name: it for name, it in exported.weights.items() if name not in ignored}
    expected = stored_layout(exported.model, weights)
    stored = stored_tensors(weight_files(folder))
    if stored.keys() != expected.keys():
        different = sorted(stored.keys() ^ expected.keys())
        problems.append(f"{len(different)} names differ, such as {different[0]}")
    else:
        problems += _other_values(weight_files(folder), expected)
    named = json.loads((folder / "config.json").read_text(encoding="utf-8"))["dtype"]
    if all(it.dtype != getattr(torch, named) for it in stored.values()):
        problems.append(f"config.json says {named}, which no tensor is")
    return problems


def _architecture_problems(exported: ExportedModel, folder: Path) -> list[str]:
    try:
        loaded = load_headers(folder, {}, trust_remote_code=exported.trust_remote_code)
    except Exception:
        if exported.trust_remote_code:  # code of a model may not run on the meta device
            return []
        raise
    return tensor_problems(loaded, {})


def _other_values(files: list[Path], expected: Mapping[str, Tensor]) -> list[str]:
    from safetensors import safe_open

    different = []
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (no mapping)
                stored, meant = tensors.get_tensor(name), expected[name]
                if stored.dtype != meant.dtype or not torch.equal(stored, meant):
                    different.append(name)
    return [f"{len(different)} tensors differ, such as {different[0]}"] if different else []
