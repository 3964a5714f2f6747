"""The policy's adapter in a vLLM engine, which computes with its own LoRA kernels over the weights of the folder."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.models.lora_spec import LoraSpec, write_adapter
from tgpo_ray.models.weight_buckets import read_buckets
from tgpo_ray.models.weight_transfer import WeightTransfer

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

    from tgpo_ray.models.weight_transfer import WeightUpdate


class EngineAdapter:
    """One adapter, which a later one replaces in its place. vLLM reads it from a folder of this process.

    Args:
        engine: vLLM's, with LoRA enabled.
    """

    def __init__(self, engine: Any, spec: LoraSpec) -> None:
        self._engine, self._spec = engine, spec
        self._folder = tempfile.TemporaryDirectory(prefix="tgpo-adapter-")
        self.request: LoRARequest | None = None  # of each prompt; None before the first adapter: the model alone

    def load(self, update: WeightUpdate) -> None:
        """Have every worker take the adapter over, which comes as buckets of peft's tensors.

        Raises:
            ValueError: vLLM's model has no adapters for one of the layers.
        """
        from vllm.lora.request import LoRARequest

        assert not isinstance(update, WeightTransfer), "adapters come through the object store"
        tensors = dict(read_buckets(update))
        layers = {name.removesuffix(".weight").rpartition(".")[0].rpartition(".")[2] for name in tensors}
        write_adapter(Path(self._folder.name), self._spec.file(sorted(layers), ""), tensors)
        place = {"lora_name": "policy", "lora_int_id": 1, "lora_path": self._folder.name}
        self._engine.add_lora(LoRARequest(**place, load_inplace=True))
        self.request = LoRARequest(**place)  # in place: vLLM would read the folder again in every step
