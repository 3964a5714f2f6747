"""Facts from a model's folder, read without any model library. A Hugging Face id gives no facts."""

from __future__ import annotations

import difflib
import json
import os
import re
from pathlib import Path
from typing import Any

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model")
ADAPTER = "adapter_config.json"  # of peft: LoRA and its kin
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")


def looks_local(path: str) -> bool:
    """Returns whether `path` means a folder.

    A folder exists, begins with `.`, `/` or `~`, is in a folder that exists, or has no form of an `org/name` id.
    """
    parent = os.path.dirname(path)
    begins = path.startswith((".", "~", os.sep))
    return begins or os.path.exists(path) or bool(parent and os.path.isdir(parent)) or not HUB_ID.match(path)


def has_tokenizer(folder: Path) -> bool:
    """Returns whether there is a file of a tokenizer in the folder."""
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


def folder_problems(where: str, path: str, tokenizer: str | None, *, weights: bool = True) -> list[str]:
    """Returns what a local model folder lacks, and nothing for a Hugging Face id.

    Args:
        where: section of the configuration, for messages.
        weights: whether the folder must have a model besides a tokenizer.
    """
    problems = []
    if looks_local(path):
        folder = Path(path).expanduser()
        if not folder.is_dir():
            return [f"{where}.path: {_no_folder(path)}"]
        if weights and not (folder / "config.json").is_file() and not (folder / ADAPTER).is_file():
            problems.append(f"{where}.path: {path} has no config.json: it is not a Hugging Face model folder")
    source = tokenizer or path
    if looks_local(source) and not has_tokenizer(Path(source).expanduser()):
        key, fix = ("tokenizer", "name a folder with one") if tokenizer else ("path", f"name one as {where}.tokenizer")
        there = Path(source).expanduser().is_dir()
        lacks = f"{source} has no tokenizer (such as tokenizer.json): {fix}" if there else _no_folder(source)
        problems.append(f"{where}.{key}: {lacks}")
    return problems


def _no_folder(path: str) -> str:
    """Returns that there is no such folder, with those of its parent that are spelled almost like it."""
    folder = Path(path).expanduser()
    if folder.is_file():
        return f"{path} is a file: name the folder of a model, with config.json and safetensors (GGUF is not read)"
    names = [it.name for it in folder.parent.iterdir() if it.is_dir()] if folder.parent.is_dir() else []
    near = [os.path.join(os.path.dirname(path), name) for name in difflib.get_close_matches(folder.name, names, n=2)]
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    return f"no such folder: {path} (looked in {Path.cwd()}); write a folder or an org/name id{meant}"


def model_facts(path: str, hf_overrides: dict[str, Any]) -> dict[str, Any]:
    """Returns config.json of a local folder with the overrides on top, or only the overrides without that file."""
    file = Path(path).expanduser() / "config.json"
    try:
        facts = json.loads(file.read_text(encoding="utf-8")) if path and file.is_file() else {}
    except (OSError, ValueError):  # the library that loads the model reports a broken file
        facts = {}
    return {**facts, **hf_overrides} if isinstance(facts, dict) else dict(hf_overrides)


def context_length(facts: dict[str, Any]) -> int | None:
    """Returns the number of positions that the model knows, or None where its facts do not say."""
    length = facts.get("max_position_embeddings")
    return length if isinstance(length, int) else None


def kv_bytes(facts: dict[str, Any], dtype: str, num_tokens: int) -> int | None:
    """Returns the bytes of KV cache that one sequence takes, or None where the facts do not say.

        bytes = sum over layers of tokens kept * 2 * key-value heads * head size * bytes of a number

    A layer with a sliding window keeps the window, and one with linear attention nothing that grows. Multi-head latent
    attention (DeepSeek-V2, arXiv:2405.04434, section 2.1) keeps `kv_lora_rank + qk_rope_head_dim` numbers a token.
    """
    layers, heads = facts.get("num_hidden_layers"), facts.get("num_attention_heads")
    hidden = facts.get("hidden_size")
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(hidden, int)):
        return None
    head_size = facts.get("head_dim") or hidden // heads
    kv_heads = facts.get("num_key_value_heads") or heads  # fewer than `heads` with grouped-query attention
    numbers = 2 * kv_heads * head_size
    if facts.get("kv_lora_rank"):
        numbers = facts["kv_lora_rank"] + facts.get("qk_rope_head_dim", 0)
    kept = sum(_tokens_kept(kind, facts, num_tokens) for kind in _layer_kinds(facts, layers))
    return kept * numbers * (4 if dtype == "float32" else 2)


def _layer_kinds(facts: dict[str, Any], layers: int) -> list[str]:
    """Returns `layer_types` of config.json, or what `use_sliding_window` and `max_window_layers` of Qwen2 mean."""
    kinds = facts.get("layer_types")
    if isinstance(kinds, list) and len(kinds) == layers:
        return kinds
    first = (
        facts.get("max_window_layers", 0) if facts.get("use_sliding_window", facts.get("sliding_window")) else layers
    )
    return ["full_attention" if layer < first else "sliding_attention" for layer in range(layers)]


def _tokens_kept(kind: str, facts: dict[str, Any], num_tokens: int) -> int:
    if kind == "linear_attention":
        return 0
    window = facts.get("sliding_window") if kind == "sliding_attention" else None
    return min(num_tokens, window) if window else num_tokens


def cache_problem(facts: dict[str, Any]) -> str | None:
    """Returns why some layer's cache lacks keys and values of earlier tokens, or None where the facts name no reason.

    A sliding window forgets tokens, and a recurrent state holds none.
    """
    if facts.get("layer_types"):
        kinds = sorted({str(kind) for kind in facts["layer_types"]} - {"full_attention"})
        return f"layer_types has {', '.join(kinds)}" if kinds else None
    if facts.get("sliding_window") and facts.get("use_sliding_window", True):
        return f"sliding_window is {facts['sliding_window']}"
    return None


def local_model(path: str) -> str:
    """Returns `path` as an absolute path where it is a folder here. Actors run in other folders than the driver."""
    folder = Path(path).expanduser()
    return str(folder.resolve()) if folder.is_dir() else path
