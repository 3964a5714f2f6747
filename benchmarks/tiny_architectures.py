"""Shapes of tiny random models, one for each architecture that `models.py` tries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tgpo_ray.models import character_tokenizer

# vLLM's attention on a CPU wants heads of 32, and its kernel of experts widths that are multiples of 32
PLAIN = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 256,
    "initializer_range": 0.2,  # with the usual 0.02 a random model is nearly uniform, and hides what is wrong
}
HEAD = {"head_dim": 32}
EXPERTS = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
LATENT = {  # multi-head latent attention
    "num_key_value_heads": 2,
    "q_lora_rank": 32,
    "kv_lora_rank": 512,  # with the next but one 576, the only size that vLLM has on a CPU
    "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 64,
    "v_head_dim": 32,
}
ROUTED = {"n_routed_experts": 4, "n_shared_experts": 1, "n_group": 1, "topk_group": 1, "first_k_dense_replace": 1}
MAMBA = {"mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_d_state": 16, "mamba_chunk_size": 16}
TIED = {"tie_word_embeddings": True}  # as all published models of a kind are, and as vLLM computes them
SPARSE_STEP = {"decoder_sparse_step": 1, "mlp_only_layers": []}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "apertus": PLAIN,
    "arcee": PLAIN | HEAD,
    "bloom": TIED | {"hidden_size": 64, "n_layer": 2, "n_head": 2, "initializer_range": 0.2},
    "cohere": PLAIN | TIED,
    "cohere2": PLAIN | HEAD | TIED | {"sliding_window": 64},
    "deepseek_v2": PLAIN | LATENT | EXPERTS | ROUTED | {"q_lora_rank": None, "topk_method": "greedy"},
    "deepseek_v3": PLAIN | LATENT | EXPERTS | ROUTED | {"topk_method": "noaux_tc"},
    "ernie4_5": PLAIN | HEAD,
    "ernie4_5_moe": PLAIN | {"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 64, "moe_layer_start_index": 1},
    "exaone4": PLAIN | HEAD | {"sliding_window": 64, "sliding_window_pattern": 2},
    "falcon": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.2},
    "falcon_h1": PLAIN | HEAD | MAMBA,
    "gemma": PLAIN | HEAD,
    "gemma2": PLAIN | HEAD | TIED | {"sliding_window": 64, "query_pre_attn_scalar": 32},
    "gemma3_text": PLAIN | HEAD | {"sliding_window": 64, "query_pre_attn_scalar": 32},
    "glm": PLAIN | HEAD | {"pad_token_id": 0},
    "glm4": PLAIN | HEAD | {"pad_token_id": 0},
    "glm4_moe": PLAIN | HEAD | EXPERTS | ROUTED | {"use_qk_norm": True},
    "gpt2": {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256, "initializer_range": 0.2},
    "gpt_neox": PLAIN,
    "gpt_oss": PLAIN | HEAD | EXPERTS | {"intermediate_size": 64, "sliding_window": 64},
    "gptj": {"n_embd": 64, "n_layer": 2, "n_head": 2, "n_positions": 256, "rotary_dim": 16, "initializer_range": 0.2},
    "granite": PLAIN,
    "granitemoe": PLAIN | EXPERTS | {"intermediate_size": 64},
    "hunyuan_v1_dense": PLAIN | HEAD,
    "hunyuan_v1_moe": PLAIN | HEAD | {"num_experts": 4, "moe_topk": 2, "intermediate_size": 64},
    "llama": PLAIN | HEAD,
    "minimax": PLAIN | HEAD | EXPERTS,
    "mistral": PLAIN | HEAD | {"sliding_window": 64},
    "mixtral": PLAIN | EXPERTS | {"intermediate_size": 64},
    "nemotron": PLAIN | HEAD,
    "olmo": PLAIN,
    "olmo2": PLAIN,
    "olmo3": PLAIN | {"sliding_window": 64},
    "olmoe": PLAIN | EXPERTS | {"intermediate_size": 64},
    "opt": {
        "hidden_size": 64, "ffn_dim": 128, "num_hidden_layers": 2, "num_attention_heads": 2, "word_embed_proj_dim": 64,
        "max_position_embeddings": 256, "init_std": 0.2,
    },
    "phi": PLAIN | {"num_key_value_heads": 2},
    "phi3": PLAIN,
    "phimoe": PLAIN | EXPERTS | {"intermediate_size": 64, "moe_intermediate_size": 64},
    "qwen2": PLAIN,
    "qwen2_moe": PLAIN | EXPERTS | SPARSE_STEP | {"shared_expert_intermediate_size": 96},
    "qwen3": PLAIN | HEAD,
    "qwen3_moe": PLAIN | HEAD | EXPERTS | SPARSE_STEP,
    "seed_oss": PLAIN | HEAD,
    "smollm3": PLAIN | HEAD,
    "stablelm": PLAIN,
    "starcoder2": PLAIN | {"sliding_window": None},
}  # fmt: skip


def write_tiny(model_type: str, folder: Path, seed: int = 0) -> Path:
    """Returns the folder of a random model of this architecture, with a tokenizer of a few characters."""
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    tokenizer = character_tokenizer("0123456789+-=*() abcdefghijklmnop")
    ids = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": None}
    # heads that divide among tensor-parallel engines, and a width that pads no vocabulary
    shape = {"vocab_size": 64, "pad_token_id": None, "tie_word_embeddings": False} | ids | ARCHITECTURES[model_type]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **shape)).float().eval()
    model.generation_config = GenerationConfig(**ids)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
