"""For which models transformers offers flash attention, and which need another one than its default."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.core.models.bent_models import write_kind
from tgpo_ray.models import attention, flash_attention, load_model


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


def test_a_cap_of_attention_logits_is_computed_and_not_left_out(tmp_path: Path):
    """Gemma 2: torch's attention, the default of transformers, has no cap."""
    from transformers import AutoModelForCausalLM

    folder = write_kind(tmp_path, "gemma2", attn_logit_softcapping=0.1)
    ids = torch.arange(2, 20)[None]
    exact = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    fast = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    ours = load_model(folder, dtype=torch.float32, hf_overrides={}, trust_remote_code=False)
    with torch.no_grad():
        found, expected, without = (model(ids).logits for model in (ours, exact, fast))
    torch.testing.assert_close(found, expected)
    assert (without - expected).abs().max() > 1e-3
