"""A Hugging Face causal model with the overrides of a configuration, for learners and transformers teachers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from tgpo_ray.models.attention import exact_attention
from tgpo_ray.models.dropout import switch_off_dropout
from tgpo_ray.models.folder_tensors import without_missing_weights
from tgpo_ray.models.head_check import check_head
from tgpo_ray.models.logit_transform import logit_transform
from tgpo_ray.models.overrides import load_config
from tgpo_ray.models.partitioned import load_partitioned


def load_model(
    path: str,
    *,
    dtype: torch.dtype,
    hf_overrides: dict[str, Any],
    trust_remote_code: bool,
    section: str = "model",
    attention: str | None = None,
    dropout: bool = False,
    split_by: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Returns the model on the CPU, in evaluation mode, with the same overrides that vLLM gets.

    `logit_transform` of its configuration says what it does to the logits of its head, which is compared once with the
    model's own logits of a few tokens.

    Args:
        attention: implementation that transformers offers for the model, None for the fastest that is exact.
        section: section of the configuration with the overrides, for messages.
        dropout: leave the dropout of the model's configuration on in training.
        split_by: DeepSpeed's configuration. The parameters are then split over the ranks, as ZeRO-3 has them, on the
            devices of the ranks. Every rank must call this.

    Raises:
        ValueError: the model's configuration does not have the key of an override, or `check_head` refuses the model.
        MissingWeightsError: the files lack weights, for which transformers would draw random ones.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(path, hf_overrides, trust_remote_code=trust_remote_code, section=section)
    attention = attention or exact_attention(config)
    options = {"dtype": dtype} if attention is None else {"dtype": dtype, "attn_implementation": attention}
    if split_by is not None:
        loaded = load_partitioned(path, config, split_by, trust_remote_code=trust_remote_code, **options)
    else:
        loaded = AutoModelForCausalLM.from_pretrained(
            path, config=config, trust_remote_code=trust_remote_code, output_loading_info=True, **options
        )
    model = without_missing_weights(path, loaded)
    if not dropout:
        switch_off_dropout(model)
    check_head(model, path, logit_transform(config), dropout=dropout)
    return model
