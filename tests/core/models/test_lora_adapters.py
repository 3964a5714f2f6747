"""Adapters in models of transformers: what gets one, what is refused, and the model that computes the same."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch

from tgpo_ray.models.adapters import Adapters
from tgpo_ray.models.lora_spec import LoraSpec
from tgpo_ray.models.lora_targets import TargetModulesError, target_names

SHAPE: dict[str, Any] = {
    "vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "bos_token_id": None, "eos_token_id": None, "pad_token_id": None,
}  # fmt: skip
EXPERTS: dict[str, Any] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 8, "head_dim": 8}
LORA = LoraSpec(2, 4.0)
ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]


def model_of(kind: str) -> Any:
    import transformers as tf

    torch.manual_seed(0)
    if kind == "gpt2":  # linear layers that store W (in, out)
        ids: dict[str, Any] = {"bos_token_id": None, "eos_token_id": None}
        return tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, **ids)).eval()
    if kind == "qwen3_moe":
        return tf.Qwen3MoeForCausalLM(tf.Qwen3MoeConfig(**SHAPE, **EXPERTS)).eval()
    return tf.Qwen2ForCausalLM(tf.Qwen2Config(**SHAPE, tie_word_embeddings=kind == "tied")).eval()


def whole(_parameters: Any) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


KINDS = {
    "tied": sorted([*ATTENTION, "gate_proj", "up_proj", "down_proj"]),
    "untied": sorted([*ATTENTION, "gate_proj", "up_proj", "down_proj"]),
    "qwen3_moe": ATTENTION,  # experts stay frozen
    "gpt2": ["c_attn", "c_fc", "c_proj"],
}


@pytest.mark.parametrize("kind", KINDS)
def test_merged_weights_compute_what_the_adapters_do(kind: str):
    model, ids = model_of(kind), torch.arange(8)[None]
    names, first = {name for name, _ in model.named_parameters()}, model(ids).logits
    adapters = Adapters(model, LORA)
    assert adapters.targets == KINDS[kind]
    assert torch.equal(model(ids).logits, first)  # B is 0
    trained = {id(it) for it in model.parameters() if it.requires_grad}
    assert trained == {id(it) for it in adapters.parameters()}
    before = adapters.shake(whole)
    changed, merged = model(ids).logits, dict(adapters.merged(whole))
    assert (changed - first).abs().max() > 1e-2 and merged.keys() == names
    plain = model_of(kind)
    plain.load_state_dict(merged, strict=False)  # a tied head is there once
    assert torch.allclose(plain(ids).logits, changed, atol=1e-6)
    with adapters.off():
        assert torch.equal(model(ids).logits, first)
    assert torch.equal(model(ids).logits, changed)
    adapters.put_back(whole, before)
    assert torch.equal(model(ids).logits, first)


@pytest.mark.parametrize(
    ("kind", "target", "reason"),
    [
        ("tied", "lm_head", "lm_head is the head: the loss reads the head's own weight"),
        ("untied", "lm_head", "lm_head is the head"),
        ("untied", "embed_tokens", "embed_tokens is the embeddings"),
        ("untied", "q_porj", "q_porj is no linear layer of Qwen2ForCausalLM; choose from down_proj, gate_proj, k_proj"),
        ("qwen3_moe", "down_proj", "down_proj names experts, which transformers packs .* choose from k_proj, o_proj"),
    ],
)
def test_a_name_without_an_adapter_is_refused_with_those_that_may_have_one(kind: str, target: str, reason: str):
    with pytest.raises(TargetModulesError, match=rf"model\.lora\.target_modules: {reason}"):
        target_names(model_of(kind), LoraSpec(2, 4.0, target_modules=("q_proj", target)))


def test_targets_are_ends_of_names_or_whole_names():
    model = model_of("untied")
    found = target_names(model, LoraSpec(2, 4.0, target_modules=("mlp.up_proj", "model.layers.1.self_attn.q_proj")))
    assert found == ["model.layers.0.mlp.up_proj", "model.layers.1.self_attn.q_proj", "model.layers.1.mlp.up_proj"]
    one = Adapters(model, LoraSpec(2, 4.0, target_modules=("layers.1.self_attn.q_proj",)))
    assert one.targets == ["model.layers.1.self_attn.q_proj"]  # `q_proj` would be both layers' in an export


def test_the_same_seed_gives_the_same_adapters_and_leaves_the_random_state():
    torch.manual_seed(3)
    expected = torch.rand(1)
    models = [model_of("untied") for _ in range(2)]
    torch.manual_seed(3)
    first, second = (Adapters(it, LORA, seed=7) for it in models)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.parameters()[0], Adapters(model_of("untied"), LORA, seed=8).parameters()[0])


@pytest.mark.parametrize(("rank", "engine_rank"), [(1, 1), (2, 8), (8, 8), (20, 32), (512, 512)])
def test_an_engine_has_the_smallest_rank_of_vllms_that_holds_the_adapters(rank: int, engine_rank: int):
    assert LoraSpec(rank, 1.0).engine_rank == engine_rank
