"""Whether a folder or a Hugging Face id holds the model that a run would load, from its files alone, in seconds."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from tgpo_ray.models.folder import ADAPTER, looks_local, model_facts
from tgpo_ray.models.folder_tensors import (
    MetaModel,
    MissingWeightsError,
    load_headers,
    tensor_problems,
    tied_head_problem,
)
from tgpo_ray.models.folder_tokenizer import tokenizer_problems
from tgpo_ray.models.hub import cached_snapshot, hub_problem
from tgpo_ray.models.weight_files import WeightFilesError, weight_files


@dataclass(frozen=True)
class ModelSource:
    """One model as a section of the configuration names it.

    Args:
        where: the section, for messages.
        loader: who loads the weights. `learner`: transformers, and vLLM beside it. `none`: a server elsewhere.
    """

    where: str
    path: str
    tokenizer: str | None = None
    loader: Literal["learner", "transformers", "vllm", "none"] = "learner"
    hf_overrides: dict[str, Any] = field(default_factory=dict)
    trust_remote_code: bool = False


def model_problems(source: ModelSource) -> list[str]:
    """Returns a line for each thing that keeps the source from being the model, with value, rule and fix.

    The answer is remembered for files that stay as they are. Without transformers (a laptop) nothing is looked at.
    """
    if importlib.util.find_spec("transformers") is None:
        return []
    needs_weights = source.loader != "none"
    name = source.tokenizer or source.path
    weights = _folder_of(source.path, weights=True) if needs_weights else None
    tokenizer = _folder_of(name, weights=False)
    asked = [("path", source.path)] if needs_weights and weights is None else []
    if tokenizer is None and (source.tokenizer or not needs_weights):
        asked.append(("tokenizer" if source.tokenizer else "path", name))
    absent = [f"{source.where}.{key}: {problem}" for key, it in asked if (problem := hub_problem(it))]
    if absent:
        return absent
    key = json.dumps([source.hf_overrides, source.trust_remote_code], sort_keys=True, default=str)
    stamps = (_stamp(weights), _stamp(tokenizer))
    return list(_remembered(_Hashed(key, stamps, source), weights, tokenizer))


def _folder_of(name: str, *, weights: bool) -> Path | None:
    """Returns the local folder of a path or of an id in the cache, or None where the hub has to be asked."""
    return Path(name).expanduser() if looks_local(name) else cached_snapshot(name, weights=weights)


def _stamp(folder: Path | None) -> tuple[tuple[str, int, int], ...]:
    """Returns name, size and time of each file: what changes when a file does."""
    files = sorted(folder.iterdir()) if folder is not None and folder.is_dir() else []
    stats = ((path.name, path.stat()) for path in files if path.is_file())
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in stats)


class _Hashed:
    """A source as a key of the cache; the overrides are a dictionary, which has no hash."""

    def __init__(self, overrides: str, stamps: tuple[Any, ...], source: ModelSource) -> None:
        self.source = source
        self._key = (overrides, stamps, source.where, source.path, source.tokenizer, source.loader)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hashed) and self._key == other._key


@lru_cache(maxsize=64)
def _remembered(hashed: _Hashed, weights: Path | None, tokenizer: Path | None) -> tuple[str, ...]:
    source, loaded = hashed.source, None
    problems = []
    if weights is not None and source.loader != "none":
        problems, loaded = _weights_problems(source, weights)
    if tokenizer is not None:
        found = tokenizer_problems(tokenizer, weights, loaded, trust_remote_code=source.trust_remote_code)
        key = "tokenizer" if source.tokenizer else "path"
        problems += [f"{source.where}.{key}: {source.tokenizer or source.path}: {problem}" for problem in found]
    return tuple(problems)


def _weights_problems(source: ModelSource, folder: Path) -> tuple[list[str], MetaModel | None]:
    begin = f"{source.where}.path: {source.path}: "
    kind = _quantized_problem(source, folder) or adapter_problem(folder)
    if kind:
        return [begin + kind], None
    try:
        if _quantization(folder) is not None:  # the names of its tensors are those of the method
            weight_files(folder)
            return [], None
        loaded = load_headers(folder, source.hf_overrides, trust_remote_code=source.trust_remote_code)
    except (WeightFilesError, MissingWeightsError) as error:
        return [begin + str(error)], None
    except Exception as error:
        # transformers cannot build it. vLLM has architectures of its own, and code of a model may dislike meta tensors
        if source.loader == "vllm" or source.trust_remote_code:
            return [], None
        return [f"{begin}transformers cannot build the model of config.json: {_first_line(error)}"], None
    found = tensor_problems(loaded, source.hf_overrides)
    tied = None if found else tied_head_problem(loaded)
    return [begin + problem for problem in (*found, *([tied] if tied else []))], loaded


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def adapter_problem(folder: Path) -> str | None:
    """Returns that the folder holds an adapter (LoRA and its kin), or None."""
    if not (folder / ADAPTER).is_file():
        return None
    base = _object_in(folder / ADAPTER).get("base_model_name_or_path")
    beside = " beside a model" if (folder / "config.json").is_file() else ""
    return (
        f"it holds an adapter{beside} (of {base or 'a model that it does not name'}), which is not read: merge it into "
        "its model (peft: merge_and_unload, then save_pretrained) and name the merged folder"
    )


def _object_in(file: Path) -> dict[str, Any]:
    """Returns a JSON object from a file, or an empty one where the file has none."""
    try:
        facts = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _quantization(folder: Path) -> dict[str, Any] | None:
    """Returns the quantization of config.json, or None."""
    facts = model_facts(str(folder), {})
    found = facts.get("quantization_config") or (facts.get("text_config") or {}).get("quantization_config")
    return found or _object_in(folder / "hf_quant_config.json").get("quantization") or None


def _quantized_problem(source: ModelSource, folder: Path) -> str | None:
    quantization = _quantization(folder)
    if quantization is None or source.loader == "vllm":  # vLLM says itself which methods it has on this machine
        return None
    method = quantization.get("quant_method") or quantization.get("quant_algo") or "unnamed"
    if source.loader == "learner":
        return (
            f"its weights are quantized ({method}), and quantized weights cannot be trained: name the model in "
            "bfloat16, or write one (transformers: from_pretrained with `dequantize`, then save_pretrained)"
        )
    from transformers.quantizers.auto import AutoHfQuantizer

    try:
        quantizer = AutoHfQuantizer.from_config(quantization, pre_quantized=True)
        quantizer.validate_environment(device_map={"": "cpu"}, dtype=None)
    except Exception as error:
        return (
            f"its weights are quantized ({method}), which transformers cannot load here ({_first_line(error)}): use "
            "backend: vllm"
        )
    return None
