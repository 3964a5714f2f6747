"""The shape of a model: layers, widths and numbers of parameters, without its weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tgpo_ray.config import ConfigError
from tgpo_ray.models import LoraSpec, TargetModulesError, kv_bytes, model_facts

_QWEN = {"tie_word_embeddings": False, "max_position_embeddings": 32768, "vocab_size": 151936}

# config.json of the models that the files in yaml/ name, so that their plans need no download.
KNOWN_MODELS: dict[str, dict[str, Any]] = {
    "Qwen/Qwen2.5-Math-1.5B": _QWEN
    | {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28,
        "num_attention_heads": 12, "num_key_value_heads": 2, "tie_word_embeddings": True,
    },
    "Qwen/Qwen2.5-Math-7B": _QWEN
    | {
        "model_type": "qwen2", "hidden_size": 3584, "intermediate_size": 18944, "num_hidden_layers": 28,
        "num_attention_heads": 28, "num_key_value_heads": 4, "vocab_size": 152064,
    },
    "Qwen/Qwen3-8B": _QWEN
    | {
        "model_type": "qwen3", "hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36,
        "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128,
    },
    "Qwen/Qwen3-30B-A3B-Thinking-2507": _QWEN
    | {
        "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 48,
        "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128,
        "num_experts_per_tok": 8, "moe_intermediate_size": 768,
    },
    "deepseek-ai/DeepSeek-R1-Distill-Qwen-32B": _QWEN
    | {
        "model_type": "qwen2", "hidden_size": 5120, "intermediate_size": 27648, "num_hidden_layers": 64,
        "num_attention_heads": 40, "num_key_value_heads": 8, "vocab_size": 152064,
    },
}  # fmt: skip
EXPERT_KEYS = ("num_experts", "num_local_experts", "n_routed_experts")


@dataclass(frozen=True)
class ModelShape:
    """What a model's memory and arithmetic follow from."""

    layers: int
    hidden: int  # D
    attention: int  # heads * head size
    kv: int  # key-value heads * head size
    intermediate: int  # width of the MLP; with experts, of those that one token visits together
    vocabulary: int  # V
    trunk: int  # parameters of the layers
    active: int  # those of them that one token meets
    embedding: int  # parameters of input embedding and head, once where they are tied
    largest: int  # parameters of the largest module, which ZeRO-3 gathers whole
    norms_heads: bool = False  # queries and keys are normalised
    expert_share: float = 1.0  # of the experts, that one token visits
    experts_per_token: int = 0
    adapters: int = 0  # parameters of the adapters that train, the others frozen; 0: all train
    facts: Mapping[str, Any] = field(default_factory=dict, hash=False, compare=False)  # config.json

    @property
    def parameters(self) -> int:
        return self.trunk + self.embedding

    @property
    def trained(self) -> int:
        """Parameters that have gradients and an optimizer."""
        return self.adapters or self.parameters

    @property
    def head(self) -> int:
        """Parameters of the LM head, H * V."""
        return self.hidden * self.vocabulary

    def kv_bytes(self, num_tokens: int, number_bytes: int) -> int:
        """Returns the bytes of KV cache of a sequence."""
        found = kv_bytes(dict(self.facts), "float32" if number_bytes == 4 else "bfloat16", num_tokens)
        assert found is not None  # `shape_of` has read these facts
        return found

    def weights_read(self, num_tokens: float) -> float:
        """Returns the parameters that a step over `num_tokens` tokens reads: of experts those that any token visits."""
        dense = (self.active - self.expert_share * self.trunk) / (1 - self.expert_share) if self.expert_share < 1 else 0
        visited = 1 - (1 - self.expert_share) ** max(num_tokens, 1.0)
        trunk = dense + (self.trunk - dense) * visited if self.expert_share < 1 else self.trunk
        return trunk + self.head


def shape_of(
    path: str,
    hf_overrides: Mapping[str, Any],
    shapes: Mapping[str, dict[str, Any]] | None = None,
    lora: LoraSpec | None = None,
) -> ModelShape:
    """Returns the shape of a model folder, of a known or cached Hugging Face model, or of `shapes[path]`.

    Parameters are counted on torch's meta device, which allocates nothing.

    Args:
        lora: the adapters that train in it.

    Raises:
        ConfigError: nothing here says what the model looks like, transformers does not know its kind, or `lora` names
            modules that it does not have.
    """
    facts = {**_facts(path, shapes or {}), **hf_overrides}
    from transformers import AutoConfig

    kind = str(facts.get("model_type"))
    try:
        config = AutoConfig.for_model(kind, **{key: value for key, value in facts.items() if key != "model_type"})
    except (ValueError, KeyError) as error:
        raise ConfigError([f"{path}: transformers does not know the model_type {kind!r}: {error}"]) from None
    return _counted(config.to_dict() | facts, config, lora)


def facts_of(path: str, hf_overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Returns config.json of a folder or of a known model, with the overrides on top; only these for another."""
    return {**(model_facts(path, {}) or KNOWN_MODELS.get(path, {})), **hf_overrides}


def _facts(path: str, shapes: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    found = shapes.get(path) or facts_of(path, {}) or _cached(path)
    if not found:
        raise ConfigError(
            [
                f"{path}: its shape is not known here: name a folder with its config.json, or write the keys of "
                "config.json into a YAML file and give it as --shapes"
            ]
        )
    return dict(found)


def _cached(path: str) -> dict[str, Any]:
    from transformers import AutoConfig

    try:
        # the shape of a kind that only a model's own code knows cannot be counted, so that code is not run
        return AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False).to_dict()
    except (OSError, ValueError):  # not in the cache
        return {}


def _counted(facts: dict[str, Any], config: Any, lora: LoraSpec | None) -> ModelShape:
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    outside = embedding.numel() + (0 if head is embedding else head.numel())
    trunk = sum(it.numel() for it in model.parameters()) - outside
    experts = sum(it.numel() for name, it in model.named_parameters() if ".experts." in name)
    number = next((facts[key] for key in EXPERT_KEYS if facts.get(key)), 0)
    visited = facts.get("num_experts_per_tok", 1)
    share = visited / number if number and experts else 1.0
    heads = config.num_attention_heads
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    largest = max(sum(it.numel() for it in module.parameters(recurse=False)) for module in model.modules())
    norms_heads = any("q_norm" in name for name, _ in model.named_parameters())
    return ModelShape(
        layers=config.num_hidden_layers,
        hidden=config.hidden_size,
        attention=heads * size,
        kv=(getattr(config, "num_key_value_heads", None) or heads) * size,
        intermediate=visited * facts["moe_intermediate_size"] if share < 1 else config.intermediate_size,
        vocabulary=config.vocab_size,
        trunk=trunk,
        active=trunk - experts + int(experts * share),
        embedding=outside,
        largest=largest,
        norms_heads=norms_heads,
        expert_share=share,
        experts_per_token=visited if share < 1 else 0,
        adapters=0 if lora is None else _num_adapted(model, lora),
        facts=facts,
    )


def _num_adapted(model: Any, lora: LoraSpec) -> int:
    """Returns the number of parameters of the adapters, which the model on the meta device gets."""
    from tgpo_ray.models import Adapters

    try:
        adapters = Adapters(model, lora, meta=True)
    except TargetModulesError as error:
        raise ConfigError([str(error)]) from None
    return sum(it.numel() for it in adapters.parameters())
