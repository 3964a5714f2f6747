"""What an architecture does to the logits of its LM head, read from its configuration."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tgpo_ray.kernels import LogitTransform

CAPS = ("final_logit_softcapping", "logits_soft_cap", "output_logit_soft_cap")
"""Keys of a soft cap: Gemma 2 and its relatives, RecurrentGemma, xLSTM."""

SCALES: dict[str, Callable[[float], float]] = {
    "logits_scaling": lambda value: 1.0 / value,  # Granite; MiniCPM3 derives it and divides the hidden states
    "logit_scale": lambda value: value,  # Cohere
    "lm_head_multiplier": lambda value: value,  # Falcon-H1
    "output_multiplier": lambda value: value,  # Muse
    "logits_mup_width_multiplier": lambda value: 1.0 / value,  # Inkling, on the hidden states
}
"""Key of the configuration -> the factor of the logits that its value means."""

MULTIPLIED = {"hyperclovax": "logits_scaling"}  # architectures that multiply where the others divide


def logit_transform(config: Any) -> LogitTransform:
    """Returns the scale and the soft cap of a model with this configuration of transformers.

    The text model's part is read where there are several. `check_head` compares the result with the model itself.
    """
    from tgpo_ray.kernels import LogitTransform

    text = config.get_text_config()
    scale = 1.0
    for key, meaning in SCALES.items():
        value = getattr(text, key, None)
        if value is not None:
            scale *= value if MULTIPLIED.get(text.model_type) == key else meaning(value)
    if text.model_type == "minicpm" and getattr(text, "dim_model_base", None):  # code that ships with the model
        scale *= text.dim_model_base / text.hidden_size
    caps = [value for key in CAPS if (value := getattr(text, key, None))]  # 0 and null: none
    return LogitTransform(float(scale), float(caps[0]) if caps else None)
