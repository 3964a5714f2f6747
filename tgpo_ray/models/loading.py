"""A Hugging Face causal model with the overrides of a configuration, for learners and transformers teachers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tgpo_ray.models.overrides import load_config


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
    """
    from transformers import AutoModelForCausalLM

    config = load_config(path, hf_overrides, trust_remote_code=trust_remote_code, section=section)
    # Gemma caps its logits, Granite and Cohere scale them
    for name in ("final_logit_softcapping", "logits_scaling", "logit_scale"):
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ValueError(
                f"model {path!r} sets {name} = {getattr(config, name)}: its logits are changed after the LM head, "
                "which the chunked head does not do; use a model without it"
            )
    return AutoModelForCausalLM.from_pretrained(
        path, config=config, dtype=dtype, trust_remote_code=trust_remote_code, attn_implementation=attention
    )
