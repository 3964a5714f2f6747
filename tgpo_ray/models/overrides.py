"""A model's configuration with the keys of `hf_overrides`, which must be keys that it has."""

from __future__ import annotations

from typing import Any

from tgpo_ray.models.folder import local_model


class UnknownOverrideError(ValueError):
    """A key of `hf_overrides` that the model's configuration does not have. It would change nothing."""


def load_config(path: str, hf_overrides: dict[str, Any], *, trust_remote_code: bool, section: str = "model") -> Any:
    """Returns the configuration of transformers for a model, with the overrides.

    Args:
        section: section of the run's configuration with the overrides, for messages.

    Raises:
        UnknownOverrideError: the configuration does not have the key of an override.
    """
    from transformers import AutoConfig

    # `return_unused_kwargs` makes the result a pair; without it transformers ignores unknown keys
    loaded: Any = AutoConfig.from_pretrained(
        local_model(path), trust_remote_code=trust_remote_code, return_unused_kwargs=True, **hf_overrides
    )
    config, unknown = loaded
    for name in hf_overrides.keys() & unknown.keys():
        hint = "; the RoPE base is rope_parameters: {rope_type: default, rope_theta: ...}" if "rope" in name else ""
        raise UnknownOverrideError(
            f"{section}.hf_overrides.{name}: {type(config).__name__} of {path!r} has no such key, it would change "
            f"nothing{hint}"
        )
    return config
