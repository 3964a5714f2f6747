"""Tiny random models of architectures that change the logits of their head, or that have a head of their own kind."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from tgpo_ray.models import character_tokenizer

SYMBOLS = [*"0123456789+-*/=() ", "\\boxed{", "}"]
SIZE = len(SYMBOLS) + 2  # the tokenizer's padding and end
SHAPE = {
    "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 128, "initializer_range": 0.3,
}  # fmt: skip
SMALL = {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": 128, "initializer_range": 0.3}

KINDS: dict[str, dict[str, Any]] = {
    "llama": SHAPE,
    "granite": SHAPE | {"logits_scaling": 8.0},
    "granite tied": SHAPE | {"logits_scaling": 8.0, "tie_word_embeddings": True},
    "cohere": SHAPE | {"logit_scale": 2.0},
    "hyperclovax": SHAPE | {"logits_scaling": 0.25},
    "gemma2": SHAPE | {"final_logit_softcapping": 3.0},
    "gemma3_text": SHAPE | {"final_logit_softcapping": 3.0},
    "vaultgemma": SHAPE | {"final_logit_softcapping": 3.0},
    "nanochat": SHAPE | {"final_logit_softcapping": 3.0},
    "recurrent_gemma": SHAPE | {"logits_soft_cap": 3.0, "lru_width": 32, "attention_window_size": 64},
    "falcon_h1": SHAPE | {"lm_head_multiplier": 0.3, "mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_state": 8},
    "phi": SHAPE,
    "gpt_neox": SHAPE,
    "gpt2": SMALL | {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1},
    "opt": SHAPE | {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.1, "attention_dropout": 0.1},
    "seed_oss": SHAPE | {"attention_dropout": 0.1, "residual_dropout": 0.1},
}
"""Name -> model type (its first word) and shape."""


FAST = ("granite", "gemma2", "phi", "gpt2")  # importing another architecture takes seconds


def fast_ones(names: Iterable[str]) -> list[Any]:
    """The names as parameters of a test, slow where they are not among `FAST`."""
    return [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in names]


def write_kind(folder: Path, name: str, seed: int = 0, **changes: Any) -> str:
    """Returns the folder of a random model of this kind, with a bias that is not zero where its head has one."""
    from transformers import AutoConfig, AutoModelForCausalLM

    kind = name.split()[0]
    ids = {"vocab_size": SIZE, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    config = AutoConfig.for_model(kind, **(KINDS[name] | ids | changes))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model: Any = AutoModelForCausalLM.from_config(config)
        bias = getattr(model.get_output_embeddings(), "bias", None)
        if bias is not None:
            bias.data.normal_()
    model.save_pretrained(folder)
    character_tokenizer(SYMBOLS).save_pretrained(folder)
    return str(folder)
