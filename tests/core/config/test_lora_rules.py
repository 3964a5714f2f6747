"""`model.lora` and `weight_sync.lora`: values, what is refused and why, and the actors that a run then has."""

from __future__ import annotations

from typing import Any

import pytest

from tgpo_ray.algorithms import GRPOConfig, PRIMEConfig, SFTConfig
from tgpo_ray.config import AlgorithmConfig, ConfigError, resource_plan
from tgpo_ray.env_runners.building import engine_spec
from tgpo_ray.learners.building import learner_spec
from tgpo_ray.models import LoraSpec


def grpo(**lora: Any) -> GRPOConfig:
    return GRPOConfig().environment("tgpo/Math-v0").models(path="org/policy", lora=lora)


def test_values_reach_the_learners_and_without_the_section_all_weights_train():
    config = grpo(rank=8, target_modules=["q_proj", "v_proj"])
    assert config.problems() == []
    spec = learner_spec(config.resolved(gpus=False))
    assert spec.lora == LoraSpec(8, 32.0, 0.0, ("q_proj", "v_proj")) and not spec.sends_adapters
    assert learner_spec(config.models(lora=None).resolved(gpus=False)).lora is None
    assert "LoRA" not in config.facts()
    assert grpo(rank=8).facts()["LoRA"] == "rank 8, alpha 32, on every linear layer but the head; the rest is frozen"


def test_an_override_makes_the_section():
    data = {"algorithm": "GRPO", "model": {"path": "org/policy"}, "env": {"id": "tgpo/Math-v0"}}
    config = AlgorithmConfig.from_dict(data, ["model.lora.rank=4"])
    assert config.model.lora is not None and config.model.lora.rank == 4
    assert AlgorithmConfig.from_dict(config.to_dict()).model.lora == config.model.lora


@pytest.mark.parametrize(
    ("lora", "message"),
    [
        ({"rank": 0}, "model.lora.rank: must be >= 1, got 0"),
        ({"alpha": -1.0}, "model.lora.alpha: must be > 0, got -1.0"),
        ({"dropout": 1.0}, "model.lora.dropout: must be < 1, got 1.0"),
        ({"target_modules": "q_proj"}, "model.lora.target_modules: expected a list, got 'q_proj'"),
        ({"ranks": 4}, "model.lora.ranks: unknown key; did you mean 'model.lora.rank'?"),
    ],
)
def test_wrong_values_are_named(lora: dict[str, Any], message: str):
    with pytest.raises(ConfigError) as caught:
        AlgorithmConfig.from_dict({"algorithm": "GRPO", "model": {"path": "org/policy", "lora": lora}})
    assert caught.value.problems[0].startswith(message)


def test_dropout_of_adapters_is_for_training_on_data():
    assert [line.split(":")[0] for line in grpo(dropout=0.1).problems()] == ["model.lora.dropout"]
    sft = SFTConfig().models(path="org/policy", lora={"dropout": 0.1}).data(path="traces.jsonl")
    assert not any("dropout" in line for line in sft.problems())


def test_adapters_alone_go_over_the_object_store_to_an_engine_with_vllms_lora():
    config = grpo(rank=20).weight_sync(lora="adapter").resolved(gpus=True)
    assert config.weight_sync.backend == "object_store"
    engine = engine_spec(config)
    assert engine.lora == LoraSpec(20, 32.0) and engine.weight_transfer is None
    assert learner_spec(config).sends_adapters
    assert engine_spec(grpo().resolved(gpus=True)).lora is None  # merged


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (grpo().models(lora=None).weight_sync(lora="adapter"), "weight_sync.lora: adapter needs model.lora, which is"),
        (grpo(rank=513).weight_sync(lora="adapter"), "model.lora.rank: must be <= 512 with weight_sync.lora adapter"),
        (grpo().weight_sync(lora="adapter", backend="nccl"), "weight_sync.backend: nccl sends whole weights, and"),
    ],
)
def test_adapters_that_cannot_be_sent_alone_are_refused(config: Any, message: str):
    assert config.problems()[0].startswith(message)


def test_with_adapters_no_reference_is_started_unless_it_is_another_model():
    config = grpo().training(kl_weight=0.1)
    assert config.uses_reference and not config.starts_reference
    assert config.facts()["reference"] == "the learners' frozen model, without its adapters: no actor of its own"
    assert "reference" not in [row.kind for row in resource_plan(config, gpus=False)]
    assert learner_spec(config.resolved(gpus=False)).base_is_reference
    other = config.reference(path="org/other")
    assert other.starts_reference and "reference" in [row.kind for row in resource_plan(other, gpus=False)]
    assert not learner_spec(other.resolved(gpus=False)).base_is_reference
    full = grpo().training(kl_weight=0.1).models(lora=None)
    assert full.starts_reference and not learner_spec(full.resolved(gpus=False)).base_is_reference


def test_the_judges_of_prime_score_for_its_policy_too():
    config = PRIMEConfig().environment("tgpo/Math-v0").models(path="org/policy", lora={})
    assert not config.starts_reference
    assert not learner_spec(config.resolved(gpus=False)).base_is_reference


def test_a_target_that_the_model_lacks_is_refused_before_anything_starts(tiny_models: dict[str, str]):
    config = grpo(target_modules=["q_proj", "lm_head"]).models(path=tiny_models["policy"])
    config.env_runners(max_prompt_tokens=16, max_response_tokens=16)
    with pytest.raises(ConfigError, match=r"model\.lora\.target_modules: lm_head is the head: the loss reads"):
        config.check()
