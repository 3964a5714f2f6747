"""The settings of LoRA adapters, and their folder as peft and vLLM read it. No model library is imported."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.models.folder import ADAPTER

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_WEIGHTS = "adapter_model.safetensors"
ENGINE_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the values that vLLM's max_lora_rank may have
MAX_ENGINE_RANK = ENGINE_RANKS[-1]


@dataclass(frozen=True)
class LoraSpec:
    """Adapters of one model. Its linear layers compute W x + alpha / rank B A x; A (rank, in) and B (out, rank) train.

    Args:
        target_modules: names, or ends of names after a dot, of the linear layers; None: all but the head.
    """

    rank: int
    alpha: float
    dropout: float = 0.0
    target_modules: tuple[str, ...] | None = None

    @property
    def engine_rank(self) -> int:
        """The smallest of vLLM's ranks that holds this one."""
        return next(rank for rank in ENGINE_RANKS if rank >= self.rank)

    def file(self, targets: Sequence[str], base: str) -> dict[str, Any]:
        """Returns adapter_config.json.

        Args:
            targets: as peft matches them, see `Adapters.targets`.
            base: path or id of the model below the adapters.
        """
        return {
            "base_model_name_or_path": base,
            "bias": "none",
            "inference_mode": True,
            "lora_alpha": self.alpha,
            "lora_dropout": self.dropout,
            "peft_type": "LORA",
            "r": self.rank,
            "target_modules": sorted(targets),
            "task_type": "CAUSAL_LM",
        }


def write_adapter(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write an adapter's folder: adapter_config.json and the tensors under peft's names."""
    from safetensors.torch import save_file

    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()}, folder / ADAPTER_WEIGHTS, {"format": "pt"}
    )
    (folder / ADAPTER).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
