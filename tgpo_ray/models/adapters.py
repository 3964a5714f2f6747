"""LoRA adapters in a model of transformers, made by peft. Everything beside them is frozen."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tgpo_ray.models.lora_spec import LoraSpec
from tgpo_ray.models.lora_targets import shortest_targets, target_names
from tgpo_ray.models.split_parameters import is_split

NAME = "default"  # peft's of an adapter
PREFIX = "base_model.model."  # of the names in peft's files
SHAKEN = 0.5  # of 1 / sqrt(3 in): the standard deviation of the change that `shake` makes

Whole = Callable[[Sequence[nn.Parameter]], AbstractContextManager[object]]
"""Within `whole(parameters)` they are whole tensors; under ZeRO-3 they are shards elsewhere."""


class Adapters:
    """The adapters of a model, which they are put into. The model's other weights ask for no gradients.

    Args:
        model: a model of transformers, whose class stays. Its target layers become peft's, around the `base_layer`.
        seed: of A; B begins at 0, so that the model begins as it was.
        meta: the adapters have shapes and no memory, for counting.

    Raises:
        TargetModulesError: a name fits no linear layer, or the head, the embeddings or experts.
    """

    def __init__(self, model: Any, spec: LoraSpec, *, seed: int = 0, meta: bool = False) -> None:
        from peft import LoraConfig, inject_adapter_in_model

        self.spec = spec
        names = target_names(model, spec)
        self.targets = shortest_targets(model, names)
        config = LoraConfig(
            r=spec.rank,
            lora_alpha=spec.alpha,  # pyright: ignore[reportArgumentType]  (peft only divides it by the rank)
            lora_dropout=spec.dropout,
            target_modules=list(self.targets),
            fan_in_fan_out=_stored_transposed(model, names),
        )
        with torch.random.fork_rng(devices=[]):  # the same A on every rank; the caller's random state stays
            torch.manual_seed(seed)
            inject_adapter_in_model(config, model, NAME, low_cpu_mem_usage=meta)
        self.layers: dict[str, Any] = {name: model.get_submodule(name) for name in names}
        self._model = model
        for layer in self.layers.values():  # else peft copies the inputs to float32, and autocast copies them back
            layer.cast_input_dtype_enabled = False
        if not any(
            is_split(it) for it in model.parameters()
        ):  # DeepSpeed wants one precision, and keeps a float32 copy
            for parameter in self.parameters():  # the 8 bits of bfloat16 lose small updates
                parameter.data = parameter.data.float()

    def parameters(self) -> list[nn.Parameter]:
        """Returns what trains: A and B of each target."""
        return [parameter for _, parameter in self._named()]

    def _named(self) -> Iterator[tuple[str, nn.Parameter]]:
        for name, layer in self.layers.items():
            yield f"{name}.lora_A.weight", layer.lora_A[NAME].weight
            yield f"{name}.lora_B.weight", layer.lora_B[NAME].weight

    def tensors(self, whole: Whole) -> Iterator[tuple[str, Tensor]]:
        """Yields (name in peft's files, A or B). A tensor may change after the next one is asked for."""
        for name, parameter in self._named():
            with whole([parameter]):
                yield PREFIX + name, parameter

    @torch.no_grad()
    def merged(self, whole: Whole) -> Iterator[tuple[str, Tensor]]:
        """Yields (name, weight) of the model without adapters that computes the same: W + alpha / rank B A."""
        for name, parameter in list(self._model.named_parameters()):
            if ".lora_A." in name or ".lora_B." in name:
                continue
            owner, _, kind = name.rpartition(".")
            layer = self.layers.get(owner.removesuffix(".base_layer"))
            if layer is None or kind != "weight":
                with whole([parameter]):
                    yield plain_name(name), parameter
                continue
            a, b = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight
            with whole([parameter, a, b]):
                yield plain_name(name), _sum(parameter, a, b, layer)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Within the block the model is the one below the adapters.

        A and B are still called, and multiplied by 0: ZeRO-3 knows the order of the calls of a forward pass.
        """
        self._scale(0.0)
        try:
            yield
        finally:
            self._scale(1.0)

    def _scale(self, factor: float) -> None:
        for layer in self.layers.values():
            layer.set_scale(NAME, factor)

    @torch.no_grad()
    def shake(self, whole: Whole) -> list[Tensor]:
        """Give every B random numbers, the same on each rank, and return the B that were there, for `put_back`.

        The weights then change by about as much as they are large. Halving the adapters would change nothing at first.

        Args:
            whole: in which a write of rank 0 becomes that of all ranks.
        """
        generator, before = torch.Generator().manual_seed(0), []
        for layer in self.layers.values():
            b = layer.lora_B[NAME].weight
            with whole([b]):
                before.append(b.detach().clone())
                size = SHAKEN / (self.spec.rank**0.5 * layer.scaling[NAME])
                b.copy_(size * torch.randn(b.shape, generator=generator))
        return before

    @torch.no_grad()
    def put_back(self, whole: Whole, before: Sequence[Tensor]) -> None:
        """Undo `shake` to the last bit."""
        for layer, values in zip(self.layers.values(), before, strict=True):
            b = layer.lora_B[NAME].weight
            with whole([b]):
                b.copy_(values)


def _sum(weight: Tensor, a: Tensor, b: Tensor, layer: Any) -> Tensor:
    """W + alpha / rank B A, added in float32 and rounded once, to the precision of A and B, which is not below W's."""
    change = layer.scaling[NAME] * (b.float() @ a.float())  # (out, in)
    change = change.t() if layer.fan_in_fan_out else change
    return (weight.float() + change).to(torch.promote_types(weight.dtype, a.dtype))


def plain_name(name: str) -> str:
    """Returns the name that a parameter below an adapter has in the model without adapters."""
    return name.replace(".base_layer.", ".")


def _stored_transposed(model: nn.Module, names: Sequence[str]) -> bool:
    from transformers.pytorch_utils import Conv1D

    return any(isinstance(model.get_submodule(name), Conv1D) for name in names)
