"""Code that ships with a model: every tokenizer and configuration is loaded with `trust_remote_code`."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT
from tgpo_ray.models import byte_level_tokenizer, load_tokenizer

SOURCES = [*sorted((ROOT / "tgpo_ray").rglob("*.py")), *sorted((ROOT / "algorithms").rglob("*.py"))]
TOKENIZERS = "tgpo_ray/models/tokenizer.py"


def loads() -> Iterator[tuple[str, str, set[str]]]:
    """Yields file, class and keywords of each call of `from_pretrained`."""
    for file in SOURCES:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
                continue
            if node.func.attr == "from_pretrained" and isinstance(node.func.value, ast.Name):
                keywords = {keyword.arg or "**" for keyword in node.keywords}
                yield file.relative_to(ROOT).as_posix(), node.func.value.id, keywords


def test_every_tokenizer_is_loaded_in_one_place():
    assert {file for file, kind, _ in loads() if "Tokenizer" in kind} == {TOKENIZERS}


def test_everything_that_may_need_a_models_own_code_is_told_whether_to_run_it():
    told = [
        (file, kind) for file, kind, names in loads() if kind.startswith("Auto") and "trust_remote_code" not in names
    ]
    assert told == []
    assert len(list(loads())) > 4


CODE = """
from transformers import Qwen2Tokenizer


class OwnTokenizer(Qwen2Tokenizer):
    pass
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: Any) -> Path:
    """A folder whose tokenizer is a class that ships with it."""
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    folder = tmp_path / "tokenizer"
    byte_level_tokenizer(["1+1=2"], 300).save_pretrained(folder)
    (folder / "own.py").write_text(CODE)
    file = folder / "tokenizer_config.json"
    facts = json.loads(file.read_text()) | {
        "tokenizer_class": "OwnTokenizer",
        "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", "own.OwnTokenizer"]},
    }
    file.write_text(json.dumps(facts))
    return folder


def test_a_tokenizer_with_code_of_its_own_is_loaded_where_that_is_allowed(own_code: Path):
    assert type(load_tokenizer(str(own_code), trust_remote_code=True)).__name__ == "OwnTokenizer"
    with pytest.raises(ValueError, match="trust_remote_code"):
        load_tokenizer(str(own_code), trust_remote_code=False)
