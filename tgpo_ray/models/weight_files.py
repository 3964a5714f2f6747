"""The files of a model folder that hold its weights: which there are, whether they are whole, their headers."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# in the order in which transformers looks for them
WHOLE = ("model.safetensors", "pytorch_model.bin")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
SHARD = re.compile(r"-\d{5}-of-\d{5}\.safetensors$")
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
FORMATS = f"{WHOLE[0]} or {INDEXES[0]} with its shards (pytorch_model.bin is read too)"
OTHER_WEIGHTS = ("*.safetensors", "*.bin", "*.gguf", "*.pth", "*.pt", "*.h5", "*.msgpack", "*.onnx", "*.npz")


class WeightFilesError(ValueError):
    """The weights of a folder cannot be read. The message names the file and the fix."""


def weight_files(folder: Path) -> list[Path]:
    """Returns the files of the weights that transformers loads.

    Raises:
        WeightFilesError: there are none, the index is broken or names a file that is not there, or the folder holds
            the weights of two models.
    """
    for name, index in zip(WHOLE, INDEXES, strict=True):
        if (folder / name).is_file():
            _refuse_second_weights(folder, {name})
            return [folder / name]
        if (folder / index).is_file():
            shards = _shards(folder, index)
            _refuse_second_weights(folder, shards)
            return [folder / shard for shard in sorted(shards)]
    found = sorted({path.name for pattern in OTHER_WEIGHTS for path in folder.glob(pattern)})
    there = f"it has {', '.join(found[:3])}{', ...' if len(found) > 3 else ''}" if found else "it has none"
    raise WeightFilesError(f"no weights that are read: {there}; wanted {FORMATS}: convert or download them again")


def _shards(folder: Path, index: str) -> set[str]:
    try:
        shards = set(json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        pointer = " (a git-lfs pointer: run `git lfs pull` there)" if _is_pointer(folder / index) else ""
        raise WeightFilesError(
            f"{index} is not an index with a weight_map: {type(error).__name__}{pointer}; download it again"
        ) from None
    missing = sorted(shard for shard in shards if not (folder / shard).is_file())
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise WeightFilesError(f"{index} names {missing[0]}{more}, which is not there: download the folder again")
    return shards


def _refuse_second_weights(folder: Path, used: set[str]) -> None:
    """vLLM reads every *.safetensors without an index, and the index's files with one; transformers one file first."""
    others = [path.name for path in folder.glob("*.safetensors") if path.name not in used]
    second = sorted(name for name in others if SHARD.search(name) or name in WHOLE)
    second += [name for name in INDEXES[:1] if name not in used and WHOLE[0] in used and (folder / name).is_file()]
    if second:
        raise WeightFilesError(
            f"it holds the weights of two models: {sorted(used)[0]}, and {second[0]} beside it. transformers and vLLM "
            "choose differently between them: delete those that are old"
        )


def _is_pointer(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(len(LFS_POINTER)) == LFS_POINTER


def stored_tensors(files: Sequence[Path]) -> dict[str, Tensor]:
    """Returns the tensors of the files on the meta device, by name: shapes and dtypes from the headers, no data.

    Raises:
        WeightFilesError: a file is a git-lfs pointer, is cut off, or is no file of weights.
    """
    return {name: tensor for file in files for name, tensor in _tensors(file)}


def _tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    import torch
    from safetensors import SafetensorError, safe_open

    size = file.stat().st_size
    if _is_pointer(file):
        raise WeightFilesError(f"{file.name} is a git-lfs pointer of {size} bytes: run `git lfs pull` in the folder")
    if file.suffix != ".safetensors":
        yield from _pickled_tensors(file)
        return
    try:
        with safe_open(file, framework="pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (no mapping)
                header = tensors.get_slice(name)
                dtype = DTYPES.get(header.get_dtype(), "float32")
                yield name, torch.empty(header.get_shape(), dtype=getattr(torch, dtype), device="meta")
    except SafetensorError as error:  # it compares the header with the size of the file
        raise WeightFilesError(
            f"{file.name} of {size} bytes is cut off or no safetensors file ({error}): copy or download it again"
        ) from None


# the names in a header -> those of torch; another one counts as float32, because only its shape is looked at
DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "I64": "int64", "I32": "int32", "I16": "int16", "I8": "int8", "U8": "uint8",
    "BOOL": "bool",
}  # fmt: skip


def _pickled_tensors(file: Path) -> Iterator[tuple[str, Tensor]]:
    import torch

    try:
        state = torch.load(file, map_location="meta", weights_only=True)
    except Exception as error:  # a cut zip archive, a broken pickle, a pickle of other objects
        kind = type(error).__name__
        raise WeightFilesError(
            f"{file.name} of {file.stat().st_size} bytes cannot be read ({kind}): convert it to safetensors, or "
            "download it again"
        ) from None
    yield from ((name, tensor) for name, tensor in state.items() if isinstance(tensor, torch.Tensor))
