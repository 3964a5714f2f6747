"""What vLLM's reload of weights leaves to do, in the worker's process.

vLLM reloads a model layer by layer: each layer goes to the meta device, its weight loaders collect what comes, and the
layer is processed when it is whole (`initialize_layerwise_reload` to `finalize_layerwise_reload`). Three kinds of
weights would keep their first values: packed experts and tied heads on a CPU, and what a loader writes by `copy_`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import groupby
from typing import Any

from torch import Tensor, nn

LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")


class Reload:
    """One reload of a model, from its start to its end.

    vLLM's GPT-OSS copies experts and attention sinks past its weight loaders, and the copies into the meta device would
    be lost, without a word. So its weights are loaded one decoder layer at a time: the modules that are copied into get
    memory before, and are processed after it. Other models have no such modules.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model: Any = model
        self._waiting: dict[str, list[nn.Module]] = {}  # by the number of the decoder layer
        self._open: list[nn.Module] = []
        self._layer = ""
        renew_expert_kernels(model)
        if type(model).__name__ == "GptOssForCausalLM":
            for name, module in model.named_modules():
                if {"sinks", "w13_weight"} & {it for it, _ in module.named_parameters(recurse=False)}:
                    self._waiting.setdefault(_layer_of(name), []).append(module)
            self._model.load_weights = partial(self._load, self._model.load_weights)

    def _load(self, load: Callable[..., set[str] | None], weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        loaded: set[str] = set()
        for layer, of_layer in groupby(weights, lambda weight: _layer_of(weight[0])):
            if layer != self._layer:
                self.close()
                self._open_modules(layer)
            loaded |= load(of_layer) or set()
        return loaded

    def _open_modules(self, layer: str) -> None:
        from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
        from vllm.model_executor.model_loader.reload.meta import materialize_layer

        self._layer, self._open = layer, self._waiting.pop(layer, [])
        for module in self._open:
            materialize_layer(module, get_layerwise_info(module))

    def close(self) -> None:
        """Take over what was copied into the last layer. To call before vLLM ends the reload."""
        from vllm.model_executor.model_loader.reload.layerwise import _layerwise_process, get_layerwise_info

        modules, self._open, self._layer = self._open, [], ""
        for module in modules:
            _layerwise_process(module, get_layerwise_info(module))

    def closed_after(self, weights: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, Tensor]]:
        """Yields the weights, and closes at their end."""
        yield from weights
        self.close()

    def finish(self) -> None:
        """To call after vLLM has ended the reload."""
        self._model.__dict__.pop("load_weights", None)
        repack_heads(self._model)


def renew_expert_kernels(model: nn.Module) -> None:
    """Have vLLM pack the experts anew on a CPU.

    There a kernel of experts reads a packed copy of their weights, which vLLM makes together with the kernel. While a
    kernel exists, it would copy plain weights over the packed ones.
    """
    from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        for module in model.modules():
            method = getattr(module, "quant_method", None)
            if isinstance(method, UnquantizedFusedMoEMethod):
                method.moe_kernel = None


def repack_heads(model: nn.Module) -> None:
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


def _layer_of(name: str) -> str:
    match = LAYER.search(name)
    return match.group(1) if match else ""
