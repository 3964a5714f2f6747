"""What a model's folder says, read without any library; nothing is known of a Hugging Face id."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "vocab.txt", "tokenizer.model")
HUB_ID = re.compile(r"^[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?$")


def looks_local(path: str) -> bool:
    """Whether `path` means a folder: it exists, begins with `.`, `/` or `~`, or cannot be an `org/name` id."""
    return path.startswith((".", "~", os.sep)) or os.path.isdir(path) or not HUB_ID.match(path)


def folder_problems(where: str, path: str, tokenizer: str | None, *, weights: bool = True) -> list[str]:
    """Returns what a local model folder lacks; nothing for a Hugging Face id. `weights`: it holds a model too."""
    problems = []
    if looks_local(path):
        folder = Path(path).expanduser()
        if not folder.is_dir():
            return [f"{where}.path: no such folder: {path} (looked in {Path.cwd()}); write a folder or an org/name id"]
        if weights and not (folder / "config.json").is_file():
            problems.append(f"{where}.path: {path} has no config.json: it is not a Hugging Face model folder")
    source = tokenizer or path
    if looks_local(source) and not any((Path(source).expanduser() / name).is_file() for name in TOKENIZER_FILES):
        key, fix = ("tokenizer", "name a folder with one") if tokenizer else ("path", f"name one as {where}.tokenizer")
        problems.append(f"{where}.{key}: {source} has no tokenizer (such as tokenizer.json): {fix}")
    return problems


def model_facts(path: str, hf_overrides: dict[str, Any]) -> dict[str, Any]:
    """Returns config.json of a local folder with the overrides on top; only the overrides where there is none."""
    file = Path(path).expanduser() / "config.json"
    try:
        facts = json.loads(file.read_text(encoding="utf-8")) if path and file.is_file() else {}
    except (OSError, ValueError):
        facts = {}
    return {**facts, **hf_overrides} if isinstance(facts, dict) else dict(hf_overrides)


def context_length(facts: dict[str, Any]) -> int | None:
    """Returns the positions that the model knows; None where nobody says."""
    length = facts.get("max_position_embeddings")
    return length if isinstance(length, int) else None


def kv_bytes_per_token(facts: dict[str, Any], dtype: str) -> int | None:
    """Returns the KV cache of one token: 2 * layers * key-value heads * head size * bytes; None where unknown."""
    layers, heads = facts.get("num_hidden_layers"), facts.get("num_attention_heads")
    hidden = facts.get("hidden_size")
    if not (isinstance(layers, int) and isinstance(heads, int) and isinstance(hidden, int)):
        return None
    head_size = facts.get("head_dim") or hidden // heads
    kv_heads = facts.get("num_key_value_heads") or heads
    return 2 * layers * kv_heads * head_size * (4 if dtype == "float32" else 2)


def local_model(path: str) -> str:
    """An absolute path where `path` is a folder here: actors run in other folders than the driver."""
    folder = Path(path).expanduser()
    return str(folder.resolve()) if folder.is_dir() else path
