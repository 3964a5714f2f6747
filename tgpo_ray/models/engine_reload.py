"""What vLLM's reload of weights leaves to do, in the worker's process.

vLLM reloads a model layer by layer: each layer goes to the meta device, its weight loaders collect what comes, and the
layer is processed when it is whole (`initialize_layerwise_reload` to `finalize_layerwise_reload`). Three kinds of
weights would keep their first values: packed experts and tied heads on a CPU, and what a loader writes by `copy_`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import Tensor, nn

LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


def before_reload(model: nn.Module) -> None:
    """Have vLLM pack the experts anew on a CPU.

    There a kernel of experts reads a packed copy of their weights, which vLLM makes together with the kernel. For a
    kernel that exists it takes the packed layout for the plain one.
    """
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        for module in model.modules():
            method = getattr(module, "quant_method", None)
            if isinstance(method, UnquantizedFusedMoEMethod):
                method.moe_kernel = None


def after_reload(model: nn.Module) -> None:
    """Give a tied LM head the weights that its embedding just got.

    On a CPU vLLM multiplies with a packed copy of each weight. A reload renews only the copies of layers that got a
    weight. A tied head gets none, so without this call it would keep sampling from its first weights.
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        for module in model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


class CopiedLayers:
    """The layers into which a model's loader copies, past the weight loaders that a reload collects from.

    vLLM's GPT-OSS copies experts and attention sinks. Its copies into the meta device would be lost, without a word.
    These layers get memory before their weights come, and are processed after it. Other models have none.
    """

    def __init__(self, model: nn.Module) -> None:
        self._waiting: dict[str, list[Any]] = {}  # number of the decoder layer: its modules
        self._open: list[Any] = []
        if type(model).__name__ == "GptOssForCausalLM":
            for name, module in model.named_modules():
                if {"sinks", "w13_weight"} & {it for it, _ in module.named_parameters(recurse=False)}:
                    self._waiting.setdefault(_layer_of(name), []).append(module)

    def open(self, layer: str | None = None) -> None:
        """Give memory to the modules of a decoder layer, or of all."""
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
        from vllm.model_executor.model_loader.reload.meta import materialize_layer

        for number in list(self._waiting) if layer is None else [layer]:
            modules = self._waiting.pop(number, [])
            for module in modules:
                materialize_layer(module, get_layerwise_info(module))
            self._open += modules

    def close(self) -> None:
        """Take over what was copied into the open modules."""
        from vllm.model_executor.model_loader.reload.layerwise import _layerwise_process, get_layerwise_info

        modules, self._open = self._open, []
        for module in modules:
            _layerwise_process(module, get_layerwise_info(module))

    def fed(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yields the weights, with the modules of one decoder layer open at a time. A layer's weights come together."""
        current = ""
        for name, weight in weights:
            layer = _layer_of(name)
            if layer != current:
                self.close()
                self.open(layer)
                current = layer
            yield name, weight
        self.close()


def _layer_of(name: str) -> str:
    match = LAYER.search(name)
    return match.group(1) if match else ""
