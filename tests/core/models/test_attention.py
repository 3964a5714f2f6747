"""For which models transformers offers flash attention, by the package that is installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tgpo_ray.models import attention, flash_attention


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The packages with kernels that are found."""
    packages: set[str] = set()
    monkeypatch.setattr(attention, "find_spec", lambda name: object() if name in packages else None)
    return packages


def test_the_installed_package_says_which(tiny_models, installed: set[str]):
    assert flash_attention(tiny_models["policy"], {}) is None
    installed.add("flash_attn_interface")
    assert flash_attention(tiny_models["policy"], {}) == "flash_attention_3"
    installed.add("flash_attn")
    assert flash_attention(tiny_models["policy"], {}) == "flash_attention_2"


def test_a_model_without_it_and_a_folder_without_model_have_none(tmp_path: Path, installed: set[str]):
    from transformers import MambaConfig

    installed.add("flash_attn")
    MambaConfig().save_pretrained(tmp_path)
    assert flash_attention(str(tmp_path), {}) is None
    assert flash_attention(str(tmp_path / "missing"), {}) is None
