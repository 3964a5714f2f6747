"""A Hugging Face causal model with the overrides of a configuration, for learners and transformers teachers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tgpo_ray.models.folder_tensors import without_missing_weights


def load_model(
    path: str,
    *,
    dtype: torch.dtype,
    hf_overrides: dict[str, Any],
    trust_remote_code: bool,
    section: str = "model",
    attention: str | None = None,
) -> nn.Module:
    """Returns the model on the CPU, in evaluation mode, with the same overrides that vLLM gets.

    Args:
        attention: implementation that transformers offers for the model, None for its default.
        section: section of the configuration with the overrides, for messages.

    Raises:
        ValueError: the model changes its logits after the head (soft-capping, scaling), which the chunked head does
            not do. Or the model's configuration does not have the key of an override.
        MissingWeightsError: the files lack weights, for which transformers would draw random ones.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    # `return_unused_kwargs` makes the result a pair; without it transformers ignores unknown keys
    loaded: Any = AutoConfig.from_pretrained(
        path, trust_remote_code=trust_remote_code, return_unused_kwargs=True, **hf_overrides
    )
    config, unknown = loaded
    for name in hf_overrides.keys() & unknown.keys():
        hint = "; the RoPE base is rope_parameters: {rope_type: default, rope_theta: ...}" if "rope" in name else ""
        raise ValueError(
            f"{section}.hf_overrides.{name}: {type(config).__name__} of {path!r} has no such key, it would change "
            f"nothing{hint}"
        )
    # Gemma caps its logits, Granite and Cohere scale them
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ValueError(
                f"model {path!r} sets {name} = {getattr(config, name)}: its logits are changed after the LM head, "
                "which the chunked head does not do; use a model without it"
            )
    loaded = AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        dtype=dtype,
        trust_remote_code=trust_remote_code,
        attn_implementation=attention,
        output_loading_info=True,
    )
    return without_missing_weights(path, loaded)
