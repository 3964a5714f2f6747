"""CheckpointLayout, a model's weights under the names and in the layouts of its checkpoint, which vLLM loads.

transformers 5 packs weights as it loads them: the experts of a layer become two tensors, and some names change. Engines
load what a checkpoint holds. `revert_weight_conversion` of transformers, which `save_pretrained` calls, undoes that for
whole models. Here it gets the converted weights of one layer at a time, and no other weight is copied.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from tgpo_ray.models.split_parameters import whole_shape

LAYER = re.compile(r"^.*?\.\d+\.")  # `model.layers.3.` of `model.layers.3.mlp.experts.down_proj`


class SentWeight(NamedTuple):
    """Name, shape and type of a weight that engines get."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


class CheckpointLayout:
    """The way from a model's parameters to the weights of its checkpoint.

    Args:
        model: a model of transformers, before it gets adapters. The way is found with tensors that have no memory, so
            its parameters may be shards (ZeRO-3).
    """

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self._renamed: dict[str, str] = {}  # a weight that goes as it is, and its name in the checkpoint
        self._part_of: dict[str, frozenset[str]] = {}  # a weight that is converted, and all that are with it
        self._stand_ins = {name: _stand_in(parameter) for name, parameter in model.named_parameters()}
        for names in by_layer(self._stand_ins):
            self._plan(names)

    def _plan(self, names: list[str]) -> None:
        stand_ins = {name: self._stand_ins[name] for name in names}
        name_of = {id(tensor): name for name, tensor in stand_ins.items()}
        for name, tensor in self._reverted(stand_ins).items():
            if id(tensor) in name_of:  # the very same tensor: nothing was done to it
                self._renamed[name_of[id(tensor)]] = name
        converted = frozenset(names).difference(self._renamed)
        self._part_of |= dict.fromkeys(converted, converted)

    def _reverted(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        from transformers.core_model_loading import revert_weight_conversion

        return revert_weight_conversion(self._model, weights)

    def weights(self, parameters: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, weight) of the checkpoint: the parameters, converted, and then the buffers that it holds.

        Args:
            parameters: every parameter of the model by its name in transformers, in any order. A tensor may change
                after the next one is asked for.
        """
        waiting: dict[frozenset[str], dict[str, Tensor]] = {}
        for name, weight in parameters:
            if name in self._renamed:
                yield self._renamed[name], weight
                continue
            part = self._part_of[name]
            held = waiting.setdefault(part, {})
            held[name] = weight if len(part) == 1 else weight.clone()
            if len(held) == len(part):
                for checkpoint_name, converted in self._reverted(waiting.pop(part)).items():
                    yield checkpoint_name, converted.contiguous()
        yield from self._reverted(dict(saved_buffers(self._model))).items()

    def sent(self, dtype: torch.dtype) -> list[SentWeight]:
        """Returns what `weights` yields for parameters of this type, in its order."""
        stand_ins = ((name, it.to(dtype)) for name, it in self._stand_ins.items())
        return [SentWeight(name, tuple(it.shape), it.dtype) for name, it in self.weights(stand_ins)]


def saved_buffers(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yields the buffers that a checkpoint holds, such as the routers' correction bias of DeepSeek-V3 and GLM4-MoE."""
    saved = model.state_dict(keep_vars=True)  # it leaves out the buffers that a model computes itself
    for name, buffer in model.named_buffers():
        if name in saved:
            yield name, buffer.detach()


def _stand_in(parameter: Tensor) -> Tensor:
    """Returns a tensor of the parameter's whole shape without memory."""
    return torch.empty(whole_shape(parameter), dtype=parameter.dtype, device="meta")


def by_layer(names: Iterable[str]) -> Iterator[list[str]]:
    """Yields the names of each layer, and those outside the layers together: conversions stay within a layer."""
    layers: dict[str, list[str]] = {}
    for name in names:
        match = LAYER.match(name)
        layers.setdefault(match.group() if match else "", []).append(name)
    yield from layers.values()
