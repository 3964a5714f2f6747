"""The learner's log-probs are the model's: bent logits, heads with a bias, dropout; what is not known is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.core.models.bent_models import KINDS, SIZE, fast_ones, write_kind
from tgpo_ray.kernels import LogitTransform
from tgpo_ray.learners.learner import PolicyModule
from tgpo_ray.models import load_model, logit_transform
from tgpo_ray.models.head_check import check_head

IDS = torch.arange(24)[None] % SIZE  # (1, T)


def loaded(folder: str, **options: Any) -> Any:
    return load_model(folder, dtype=torch.float32, hf_overrides={}, trust_remote_code=False, **options)


def own_logprobs(model: Any) -> Tensor:
    """(T, V) from the model's own forward pass."""
    return model(input_ids=IDS).logits[0].log_softmax(-1).detach()


@pytest.mark.parametrize("name", fast_ones(KINDS))
def test_the_fused_head_has_the_models_own_logprobs_in_training(name: str, tmp_path: Path):
    """Also in training mode, without dropout, whatever the architecture does to the logits of its head."""
    model = loaded(write_kind(tmp_path, name))
    expected = own_logprobs(model)
    policy = PolicyModule(model, temperature=1.0).train()
    hidden = policy.model.base_model(input_ids=IDS).last_hidden_state[0]
    targets = torch.arange(SIZE).expand(len(hidden), -1).contiguous()
    logprobs, _ = policy.head(hidden, targets=targets)
    torch.testing.assert_close(logprobs, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(policy.head(hidden).log_softmax(-1), expected, rtol=1e-4, atol=1e-4)


def test_a_cap_of_the_text_model_inside_a_composite_counts():
    from transformers import Gemma4Config

    config = Gemma4Config(text_config={"final_logit_softcapping": 30.0})
    assert logit_transform(config) == LogitTransform(cap=30.0)


@pytest.mark.parametrize("name", fast_ones(["gpt2", "opt", "seed_oss"]))
def test_dropout_stays_on_only_where_it_is_asked_for(name: str, tmp_path: Path):
    folder = write_kind(tmp_path, name)
    for dropout in (False, True):
        model = loaded(folder, dropout=dropout)
        evaluated = own_logprobs(model)
        assert torch.equal(own_logprobs(model.train()), evaluated) is not dropout


def test_the_exported_configuration_keeps_its_dropout(tmp_path: Path):
    assert loaded(write_kind(tmp_path, "gpt2")).config.resid_pdrop == 0.1


@pytest.mark.parametrize("name", fast_ones(["granite", "gemma2", "cohere"]))
def test_logits_that_are_bent_in_an_unknown_way_are_refused_by_name(name: str, tmp_path: Path):
    """As if the table did not know the architecture's key. The cap of 3 is far above the logits of a random model."""
    model = loaded(write_kind(tmp_path, name))
    with pytest.raises(
        ValueError, match=rf"{type(model).__name__}: its own logits differ by up to .* with scale 1 and soft cap None"
    ):
        check_head(model, str(tmp_path), LogitTransform(), dropout=False)


def test_a_layer_between_trunk_and_head_is_refused_by_name(tmp_path: Path):
    from transformers import ModernBertDecoderConfig, ModernBertDecoderForCausalLM

    ids = dict.fromkeys(("pad_token_id", "eos_token_id", "bos_token_id", "cls_token_id", "sep_token_id"), 1)
    config = ModernBertDecoderConfig(
        vocab_size=SIZE, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        **ids,
    )  # fmt: skip
    ModernBertDecoderForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="ModernBertDecoderForCausalLM: its own logits differ"):
        loaded(str(tmp_path))


def test_noise_in_training_is_refused_with_the_fix(tmp_path: Path):
    """A router's jitter is no dropout, and no table of names would know all of them."""
    from transformers import MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        vocab_size=SIZE, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, num_local_experts=4, router_jitter_noise=0.5, initializer_range=0.3,
    )  # fmt: skip
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="computes other logits in training than in evaluation"):
        loaded(str(tmp_path))
    loaded(str(tmp_path), dropout=True)
