"""Two strategies of a learner's rank: plain torch, and DeepSpeed (ZeRO 0-3, bf16, optimizer offload).

Both take unnormalised losses. They divide once, at the step, by the token count over all micro-batches and ranks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import ray
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

REDUCE_BYTES = 256 * 2**20  # one all-reduce for each parameter is slow, one for all of them needs a second copy


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


class TorchStrategy:
    """AdamW in torch. Gradients are summed over ranks once a step, so ranks may have different micro-batches.

    bfloat16 means autocast. Weights and optimizer stay float32, because the 8 bits of bfloat16 lose an update of
    lr = 1e-6.
    """

    def __init__(self, module: nn.Module, options: StrategyOptions, device: torch.device) -> None:
        self._policy = module.to(device=device, dtype=torch.float32)
        self.module: nn.Module = self._policy
        self._options, self._device = options, device
        self._optimizer = torch.optim.AdamW(
            module.parameters(), lr=options.lr, betas=options.betas, weight_decay=options.weight_decay
        )

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the forward pass runs."""
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._options.dtype == "bfloat16")

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, denominator: float, lr: float) -> float:
        """Returns the norm of sum(gradients) / denominator before clipping, and applies that gradient."""
        parameters = [p for p in self._policy.parameters() if p.requires_grad]
        for parameter in parameters:  # a rank without rows has no gradients, but must join the all-reduce
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        norm = reduce_gradients(parameters, denominator)
        torch.nn.utils.clip_grads_with_norm_(parameters, self._options.grad_clip, norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        yield from self._policy.named_parameters()

    def scale_weights(self, factor: float) -> None:
        """Multiply every weight."""
        with torch.no_grad():
            torch._foreach_mul_(list(self._policy.parameters()), factor)

    def save(self, folder: Path) -> None:
        if process_rank() == 0:  # every rank has the same weights and optimizer
            state = {"model": self._policy.state_dict(), "optimizer": self._optimizer.state_dict()}
            torch.save(state, folder / "learner.pt")

    def load(self, folder: Path) -> None:
        path = folder / "learner.pt"
        if not path.is_file():
            raise ValueError(
                f"{folder} holds no learner.pt: it was written by learners.engine = 'deepspeed'; restore with that"
            )
        state = torch.load(path, map_location=self._device, weights_only=True)
        self._policy.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])


class DeepSpeedStrategy:
    """DeepSpeed that accumulates gradients until `step` is called.

    DeepSpeed averages gradients over ranks, and `step` divides them by the loss scale. The scale is 1 before the
    backward passes and Z / ranks before the step. So the applied gradient is the sum over all ranks and micro-batches
    divided by Z.
    """

    def __init__(self, module: nn.Module, options: StrategyOptions, device: torch.device) -> None:
        self._deepspeed: Any = import_deepspeed()
        self._options = options
        # DeepSpeed casts the parameters. Buffers keep their type: the frequencies of rotary embeddings are float32
        self._policy = module.to(device=device)
        initialize: Any = self._deepspeed.initialize
        self.module, self._optimizer, *_ = initialize(
            model=self._policy, model_parameters=list(module.parameters()), config=_deepspeed_config(options)
        )
        self._scaled = hasattr(self._optimizer, "override_loss_scale")
        # stage 0 has no ZeRO optimizer that could unscale, so `step` sums and divides the gradients itself
        self.module.enable_backward_allreduce = self._scaled
        self._reset_scale()

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the forward pass runs; DeepSpeed's weights are in their precision already."""
        return contextlib.nullcontext()

    def _reset_scale(self) -> None:
        if self._scaled:
            self._optimizer.override_loss_scale(1.0)

    def backward(self, loss: Tensor) -> None:
        # DeepSpeed would divide the loss by the number of accumulation steps; `step` divides by Z instead
        self.module.backward(loss, scale_wrt_gas=False)

    def step(self, denominator: float, lr: float) -> float:
        """Returns the norm of sum(gradients) / denominator before clipping, and applies that gradient."""
        norm = None
        if self._scaled:
            self._optimizer.override_loss_scale(denominator / _world_size())
        else:
            parameters = [p for p in self._policy.parameters() if p.grad is not None]
            norm = reduce_gradients(parameters, denominator)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self.module.step()
        self._reset_scale()
        return float(self.module.get_global_grad_norm() if norm is None else norm)

    def named_weights(self) -> Iterator[tuple[str, Tensor]]:
        for name, parameter in self._policy.named_parameters():
            if not hasattr(parameter, "ds_id"):
                yield name, parameter
                continue
            # ZeRO-3: a rank holds only a shard; each parameter is whole only inside this block
            with self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=None):
                yield name, parameter

    def scale_weights(self, factor: float) -> None:
        """Multiply every weight of the forward pass. The optimizer's own copy stays as it is."""
        for parameter in self._policy.parameters():
            # with ZeRO-3 every rank takes its shard from rank 0; otherwise the block does nothing
            with self._deepspeed.zero.GatheredParameters([parameter], modifier_rank=0), torch.no_grad():
                parameter.mul_(factor)

    def save(self, folder: Path) -> None:
        """Write this rank's shard; every rank must call it."""
        self.module.save_checkpoint(str(folder), tag="deepspeed")

    def load(self, folder: Path) -> None:
        if not (folder / "deepspeed").is_dir():
            raise ValueError(
                f"{folder} holds no DeepSpeed state: it was written by learners.engine = 'torch'; restore with that"
            )
        shards = len(list((folder / "deepspeed").glob("*zero_pp_rank_*optim_states.pt")))
        if self._options.effective_stage > 0 and shards != _world_size():
            raise ValueError(
                f"the checkpoint {folder} was written by {shards} learners, this run has {_world_size()}: ZeRO's "
                "shards only fit the same learners.num_learners"
            )
        path, _ = self.module.load_checkpoint(str(folder), tag="deepspeed")
        if path is None:
            raise ValueError(f"DeepSpeed could not read the checkpoint {folder}: see its log above")
        self._reset_scale()


Strategy = TorchStrategy | DeepSpeedStrategy


def make_strategy(module: nn.Module, options: StrategyOptions, device: torch.device) -> Strategy:
    """Returns the strategy that `options.strategy` names."""
    return (DeepSpeedStrategy if options.strategy == "deepspeed" else TorchStrategy)(module, options, device)


def import_deepspeed() -> Any:
    """Returns the module `deepspeed`, which reads the accelerator from the environment when it is imported."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    return deepspeed


def split_configuration(options: StrategyOptions) -> dict[str, Any] | None:
    """Returns DeepSpeed's configuration where the model is to be split over the ranks as it is loaded, or None."""
    if options.strategy != "deepspeed" or options.effective_stage < 3 or _world_size() == 1:
        return None
    import_deepspeed()
    return _deepspeed_config(options)


def _deepspeed_config(options: StrategyOptions) -> dict[str, Any]:
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


def process_rank() -> int:
    """Returns this process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def _world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def reduce_gradients(parameters: list[nn.Parameter], denominator: float) -> Tensor:
    """Returns the total norm () of the gradients, after they are summed over the ranks and divided, in place."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    _sum_over_ranks(gradients)
    torch._foreach_div_(gradients, denominator)
    return torch.nn.utils.get_total_norm(gradients)


def _sum_over_ranks(gradients: list[Tensor]) -> None:
    """Sum each gradient over the ranks in place, in flat buckets."""
    if _world_size() == 1:
        return
    bucket: list[Tensor] = []
    size = 0
    for gradient in [*gradients, None]:  # None: the end, where the last bucket is reduced
        if bucket and (gradient is None or size + gradient.nbytes > REDUCE_BYTES):
            flat = _flatten_dense_tensors(bucket)
            dist.all_reduce(flat)
            for target, source in zip(bucket, _unflatten_dense_tensors(flat, bucket), strict=True):
                target.copy_(source)
            bucket, size = [], 0
        if gradient is not None:
            bucket.append(gradient)
            size += gradient.nbytes


def own_device() -> torch.device:
    """Returns the device of this rank."""
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if not ray.is_initialized():  # a Learner in one process, without Ray Train
        return torch.device("cuda")
    from ray.train.torch import get_device

    return get_device()
