"""Shapes of models: published numbers of parameters, KV caches, experts, and models that are not known."""

import json
from pathlib import Path

import pytest

from tests.paths import YAML
from tgpo_ray.config import AlgorithmConfig, ConfigError
from tgpo_ray.costs.shapes import KNOWN_MODELS, shape_of
from tgpo_ray.models import kv_bytes

# From the model cards: parameters, of them outside the embeddings.
PUBLISHED = {
    "Qwen/Qwen2.5-Math-1.5B": (1.54e9, 1.31e9),
    "Qwen/Qwen2.5-Math-7B": (7.61e9, 6.53e9),
    "Qwen/Qwen3-8B": (8.2e9, 6.95e9),
    "Qwen/Qwen3-30B-A3B-Thinking-2507": (30.5e9, 29.9e9),
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": (32.5e9, 31.0e9),
}


@pytest.mark.parametrize("name", list(KNOWN_MODELS))
def test_known_models_have_their_published_number_of_parameters(name: str):
    shape = shape_of(name, {})
    assert shape.parameters == pytest.approx(PUBLISHED[name][0], rel=0.01)
    assert shape.trunk == pytest.approx(PUBLISHED[name][1], rel=0.01)


def test_a_token_meets_the_experts_that_it_visits():
    shape = shape_of("Qwen/Qwen3-30B-A3B-Thinking-2507", {})
    assert shape.active + shape.embedding == pytest.approx(3.3e9, rel=0.03)  # "3.3B activated"
    assert shape.intermediate == 8 * 768
    # one token reads what it meets, a large batch everything
    assert shape.weights_read(1) == pytest.approx(shape.active + shape.head, rel=1e-3)
    assert shape.weights_read(1000) == pytest.approx(shape.trunk + shape.head, rel=1e-3)


def test_every_model_of_the_presets_is_known():
    for path in sorted((YAML / "paper").rglob("*.yaml")):
        config = AlgorithmConfig.from_yaml(path)
        for model in (config.model.path, *(pool.path for _, pool in config.teacher_pools().items())):
            assert model in KNOWN_MODELS, f"{path} names {model}"


def test_a_folder_and_a_file_of_shapes_come_before_known_models(tmp_path: Path):
    facts = dict(KNOWN_MODELS["Qwen/Qwen2.5-Math-7B"], num_hidden_layers=2)
    (tmp_path / "config.json").write_text(json.dumps(facts))
    assert shape_of(str(tmp_path), {}).layers == 2
    assert shape_of(str(tmp_path), {"num_hidden_layers": 3}).layers == 3  # hf_overrides, as the run applies them
    assert shape_of("my/model", {}, {"my/model": facts}).layers == 2


def test_a_model_that_is_nowhere_is_refused_with_the_ways_out():
    with pytest.raises(ConfigError, match=r"no/such-model: its shape is not known here: .*config\.json.*--shapes"):
        shape_of("no/such-model", {})
    with pytest.raises(ConfigError, match="transformers does not know the model_type 'mine'"):
        shape_of("my/model", {}, {"my/model": {"model_type": "mine"}})


def test_the_kv_cache_of_windows_latents_and_linear_attention():
    facts = {"num_hidden_layers": 4, "num_attention_heads": 8, "num_key_value_heads": 2, "hidden_size": 64}
    # 2 * 2 heads * 8 numbers * 2 bytes = 64 bytes a token and layer
    assert kv_bytes(facts, "bfloat16", 100) == 4 * 64 * 100
    windows = {"layer_types": ["sliding_attention", "full_attention"] * 2, "sliding_window": 10}
    assert kv_bytes(facts | windows, "bfloat16", 100) == 64 * (2 * 100 + 2 * 10)
    assert kv_bytes(facts | windows, "bfloat16", 5) == 64 * 4 * 5
    # Qwen2 names a window that it does not use
    assert kv_bytes(facts | {"sliding_window": 10, "use_sliding_window": False}, "bfloat16", 100) == 4 * 64 * 100
    qwen2 = {"sliding_window": 10, "use_sliding_window": True, "max_window_layers": 3}
    assert kv_bytes(facts | qwen2, "bfloat16", 100) == 64 * (3 * 100 + 10)
    latent = {"kv_lora_rank": 24, "qk_rope_head_dim": 8}
    assert kv_bytes(facts | latent, "bfloat16", 100) == 4 * 32 * 2 * 100
    linear = {"layer_types": ["linear_attention"] * 3 + ["full_attention"]}
    assert kv_bytes(facts | linear, "float32", 100) == 128 * 100
    assert kv_bytes({}, "float32", 100) is None
