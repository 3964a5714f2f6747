"""The part of the configuration that the strategies read, and DeepSpeed's own configuration, which follows from it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, Literal

import torch


@dataclass(frozen=True)
class StrategyOptions:
    """The part of the configuration that the strategies read."""

    strategy: Literal["torch", "deepspeed"] = "torch"
    dtype: Literal["float32", "bfloat16"] = "float32"
    zero_stage: int = 2
    offload: Literal["none", "optimizer", "optimizer_and_parameters"] = "none"
    lr: float = 1e-6
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.999)
    grad_clip: float = 1.0

    @property
    def effective_stage(self) -> int:
        """`zero_stage`, at least 2 in bfloat16: DeepSpeed's optimizers of stages 0 and 1 unscale no gradient there."""
        return max(self.zero_stage, 2) if self.dtype == "bfloat16" else self.zero_stage


def import_deepspeed() -> Any:
    """Returns the module `deepspeed`, which reads the accelerator from the environment when it is imported."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    return deepspeed


def deepspeed_config(options: StrategyOptions) -> dict[str, Any]:
    offload_optimizer = options.offload != "none"
    zero: dict[str, Any] = {"stage": options.effective_stage, "overlap_comm": False}
    if offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu"}
    if options.offload == "optimizer_and_parameters":
        zero["offload_param"] = {"device": "cpu"}
    half = options.dtype == "bfloat16"
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,  # `step` ends a batch; DeepSpeed must not count micro-batches itself
        "gradient_clipping": options.grad_clip,
        "zero_optimization": zero,
        "bf16": {"enabled": half},
        # a sum over micro-batches in bfloat16 loses every term that is 256 times smaller than the sum
        "data_types": {"grad_accum_dtype": "fp32" if half else None},
        "zero_force_ds_cpu_optimizer": offload_optimizer,
        "zero_allow_untested_optimizer": True,
        "optimizer": {
            "type": "AdamW",
            "params": {
                "lr": options.lr,
                "betas": list(options.betas),
                "eps": 1e-8,
                "weight_decay": options.weight_decay,
                # torch's AdamW has the same arithmetic as DeepSpeed's and needs no compiler; offload needs DeepSpeed's
                "torch_adam": not offload_optimizer,
            },
        },
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }
