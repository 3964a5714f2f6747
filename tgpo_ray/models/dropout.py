"""Dropout off in training, so that the loss sees the model that samples."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

NAME = "drop"  # part of every name: attention_dropout, resid_pdrop, layerdrop, hidden_dropout_prob, drop_path_rate


def switch_off_dropout(model: nn.Module) -> None:
    """Set every probability of dropout in the model to 0, whatever its name. Its configuration stays as it is.

    The model may then train with `train()`, which gradient checkpointing needs. Probabilities are the `p` of dropout
    modules, and floats among a module's own attributes, which attention and skipped layers read.
    """
    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if NAME in name and isinstance(value, float):
                setattr(module, name, 0.0)
