"""Which architectures train from the weights that they sample from. `benchmarks/models.py` measures it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PROVEN: tuple[str, ...] = (
    "arcee",
    "bloom",
    "cohere",
    "cohere2",
    "ernie4_5",
    "ernie4_5_moe",
    "exaone4",
    "falcon",
    "gemma",
    "gemma2",
    "gemma3_text",
    "glm",
    "glm4",
    "glm4_moe",
    "gpt2",
    "gpt_oss",
    "gptj",
    "granite",
    "granitemoe",
    "hunyuan_v1_dense",
    "hunyuan_v1_moe",
    "llama",
    "mistral",
    "mixtral",
    "nemotron",
    "olmo",
    "olmo2",
    "olmo3",
    "olmoe",
    "opt",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "seed_oss",
    "smollm3",
    "stablelm",
    "starcoder2",
)
"""Values of `model_type` for which learner and engine agree before and after all weights have changed."""

REFUSED: dict[str, str] = {
    "gpt_neox": "vLLM's wrapper around the class of transformers computes other log-probs, from the first weights on",
}
"""Values of `model_type` that are known to fail, and why."""


def architecture_problem(facts: Mapping[str, Any]) -> str | None:
    """Returns why no policy of this config.json can train, or None where nothing is known against it."""
    return REFUSED.get(str(facts.get("model_type")))


def architecture_fact(facts: Mapping[str, Any]) -> str:
    """Returns `model_type` and what is known of it, as text."""
    name = facts.get("model_type") or "not known before the model is loaded"
    if name in PROVEN:
        return f"{name}, proven: the engine takes over every weight of the learners"
    return f"{name}, not proven (docs/models.md): preflight compares learner and sampler after a change of the weights"
