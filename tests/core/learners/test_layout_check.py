"""A model that would compute something else in a layout is refused before training; one that does not is taken."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.core.learners.learner_cases import spec_of
from tgpo_ray.learners.learner import Learner
from tgpo_ray.learners.strategies import StrategyOptions
from tgpo_ray.learners.tokens import Layout

SHAPE = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 16}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}


def folder(path: Path, name: str) -> str:
    """A random model with rotary positions, experts, a sliding window, positions that it counts itself, or none."""
    import transformers

    hf: Any = transformers
    small = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2}
    opt = {"ffn_dim": 48, "num_attention_heads": 2, "max_position_embeddings": 128, "word_embed_proj_dim": 32}
    kinds: dict[str, tuple[Any, Any]] = {
        "llama": (hf.LlamaForCausalLM, lambda: hf.LlamaConfig(**SHAPE, **HEADS)),
        "experts": (hf.Qwen3MoeForCausalLM, lambda: hf.Qwen3MoeConfig(**SHAPE, **HEADS, **EXPERTS)),
        "window": (hf.MistralForCausalLM, lambda: hf.MistralConfig(**SHAPE, **HEADS, sliding_window=4)),
        "counts": (hf.OPTForCausalLM, lambda: hf.OPTConfig(**small, **opt)),
        "bias": (hf.BloomForCausalLM, lambda: hf.BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2)),
        "state": (hf.MambaForCausalLM, lambda: hf.MambaConfig(**small)),
    }
    model_class, config = kinds[name]
    torch.manual_seed(0)
    model_class(config()).save_pretrained(path)
    return str(path)


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("llama", "packed"),
        ("llama", "shared_prompt"),
        ("experts", "packed"),
        ("experts", "shared_prompt"),
        ("window", "packed"),
    ],
)
def test_a_model_that_computes_the_same_is_taken(tmp_path, name: str, layout: Layout):
    Learner(spec_of(folder(tmp_path, name), layout=layout))


@pytest.mark.parametrize(
    ("name", "layout", "message"),
    [
        (
            "counts",
            "packed",
            "in the layout packed, OPTForCausalLM gives log-probs that are .* nats from those of a se",
        ),
        ("bias", "packed", "in the layout packed, BloomForCausalLM gives log-probs that are .* nats .*; use padded"),
        ("state", "packed", "in the layout packed, MambaForCausalLM gives log-probs"),
        ("state", "shared_prompt", "needs a cache that holds keys and values .*, MambaConfig has LinearAttentionLayer"),
        ("window", "shared_prompt", "needs a cache .*, MistralConfig has DynamicSlidingWindowLayer .*: use padded or"),
    ],
)
def test_a_model_that_would_compute_something_else_is_refused(tmp_path, name: str, layout: Layout, message: str):
    path = folder(tmp_path, name)
    with pytest.raises(ValueError, match=f"learners.layout: .*{message}"):
        Learner(spec_of(path, layout=layout))
    Learner(spec_of(path))  # padded


@pytest.mark.parametrize("layout", ["packed", "shared_prompt"])
def test_rounding_of_bfloat16_is_no_difference(tmp_path, layout: Layout):
    options = StrategyOptions(dtype="bfloat16")
    Learner(spec_of(folder(tmp_path, "llama"), layout=layout, options=options))
