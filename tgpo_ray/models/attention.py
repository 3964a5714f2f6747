"""The implementation of attention: flash kernels that take packed sequences, and the one that computes a cap."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

KERNELS = {"flash_attn": "flash_attention_2", "flash_attn_interface": "flash_attention_3"}
"""Installed package -> the implementation of transformers that it brings, the better tried one first."""


def flash_attention(path: str, hf_overrides: dict[str, Any], *, trust_remote_code: bool = False) -> str | None:
    """Returns the implementation that transformers offers for the model at `path`, or None.

    None means that no package with the kernels is installed here, or that the model's class does not support them.
    """
    name = next((name for package, name in KERNELS.items() if find_spec(package) is not None), None)
    if name is None or not path:
        return None
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, **hf_overrides)
    except (OSError, ValueError):  # what loads the model reports a folder that is none, or no way to the hub
        return None
    if type(config) not in AutoModelForCausalLM._model_mapping:  # code that ships with the model is not imported for it
        return None
    model_class: Any = AutoModelForCausalLM._model_mapping[type(config)]
    return name if getattr(model_class, "_supports_flash_attn", False) else None


def exact_attention(config: Any) -> str | None:
    """Returns the implementation that computes what the configuration says, None: the default of transformers does.

    The default, torch's scaled_dot_product_attention, leaves out the cap of attention logits (Gemma 2), which engines
    apply.
    """
    return "eager" if getattr(config, "attn_logit_softcapping", None) else None
