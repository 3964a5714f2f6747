"""Paths and Hugging Face ids that nothing answers to are told at once, and what was meant with them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping
from pathlib import Path

import huggingface_hub.constants
import pytest

from tgpo_ray.models import ModelSource, hub, model_problems
from tgpo_ray.models.folder import folder_problems, looks_local

CLOSED_PORT = "http://127.0.0.1:9"  # discard: nothing listens there


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, in an empty working folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def keep(cache: Path, name: str, source: str) -> None:
    """Put a folder into the cache under an id, as a finished download."""
    place = cache / f"models--{name.replace('/', '--')}"
    shutil.copytree(source, place / "snapshots" / "abc")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("abc")


def problems(name: str) -> list[str]:
    return model_problems(ModelSource("model", name))


def test_a_mistyped_folder_is_no_id_where_its_parent_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "policy").mkdir(parents=True)
    assert looks_local("models/polcy") and not looks_local("org/policy")
    (problem,) = folder_problems("model", "models/polcy", None)
    assert problem.startswith("model.path: no such folder: models/polcy (looked in")
    assert problem.endswith("write a folder or an org/name id; did you mean models/policy?")


def test_a_file_is_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    (problem,) = folder_problems("model", "m.gguf", None)
    assert problem.startswith("model.path: m.gguf is a file: name the folder of a model")


def test_offline_an_id_must_be_in_the_cache(
    cache: Path, tiny_models: Mapping[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    keep(cache, "org/policy", tiny_models["policy"])
    assert problems("org/policy") == []
    (problem,) = problems("org/polcy")
    assert problem.startswith("model.path: org/polcy is no folder and not (whole) in the Hugging Face cache")
    assert "HF_HUB_OFFLINE forbids to download it: run `hf download org/polcy`" in problem
    assert problem.endswith("did you mean org/policy?")
    (cache / "models--org--policy" / "snapshots" / "abc" / "model.safetensors").unlink()
    assert "not (whole) in the Hugging Face cache" in problems("org/policy")[0]


def test_a_cached_model_is_looked_at_like_a_folder(cache: Path, tiny_models: Mapping[str, str]) -> None:
    keep(cache, "org/policy", tiny_models["policy"])
    weights = cache / "models--org--policy" / "snapshots" / "abc" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    assert "is cut off" in problems("org/policy")[0]


def test_a_hub_that_does_not_answer_is_told_in_seconds(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", CLOSED_PORT)
    hub._asked.cache_clear()
    start = time.monotonic()
    (problem,) = problems("org/policy")
    assert time.monotonic() - start < 2 * hub.ANSWER_SECONDS
    assert f"and {CLOSED_PORT} does not answer within 5 s (" in problem and "name a folder" in problem
