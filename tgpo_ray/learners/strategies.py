"""Two strategies of a learner's rank: plain torch, and DeepSpeed (ZeRO 0-3, bf16, optimizer offload).

Both take unnormalised losses. They divide once, at the step, by the token count over all micro-batches and ranks.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import ray
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._utils import _flatten_dense_tensors, _unflatten_dense_tensors

from tgpo_ray.learners.strategy_options import StrategyOptions, deepspeed_config, import_deepspeed
from tgpo_ray.models import gathered

REDUCE_BYTES = 256 * 2**20  # one all-reduce for each parameter is slow, one for all of them needs a second copy


class TorchStrategy:
    """AdamW in torch. Gradients are summed over ranks once a step, so ranks may have different micro-batches.

    bfloat16 means autocast. Weights and optimizer stay float32, because the 8 bits of bfloat16 lose an update of
    lr = 1e-6.
    """

    def __init__(self, module: nn.Module, options: StrategyOptions, device: torch.device) -> None:
        trained = _trained(module)
        # frozen weights stay in the precision that they were loaded in, and adapters in float32
        whole = all(it.requires_grad for it in module.parameters())
        self._policy = module.to(device=device, dtype=torch.float32 if whole else None)
        self.module: nn.Module = self._policy
        self._options, self._device = options, device
        self._optimizer = torch.optim.AdamW(
            trained, lr=options.lr, betas=options.betas, weight_decay=options.weight_decay
        )

    def autocast(self) -> AbstractContextManager[object]:
        """The context in which the forward pass runs."""
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._options.dtype == "bfloat16")

    def backward(self, loss: Tensor) -> None:
        loss.backward()

    def step(self, denominator: float, lr: float) -> float:
        """Returns the norm of sum(gradients) / denominator before clipping, and applies that gradient."""
        parameters = _trained(self._policy)
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

    def whole(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        """The context in which the parameters are whole tensors, as they always are here."""
        return contextlib.nullcontext()

    def writing(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        """The context in which every rank writes the same into the whole parameters."""
        return contextlib.nullcontext()

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
            model=self._policy, model_parameters=_trained(module), config=deepspeed_config(options)
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
            with self.whole([parameter]):
                yield name, parameter

    def whole(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        """The context in which the parameters are whole tensors; with ZeRO-3 a rank holds only a shard."""
        return gathered(parameters)

    def writing(self, parameters: Sequence[nn.Parameter]) -> AbstractContextManager[object]:
        """The context in which every rank writes the same; with ZeRO-3 each then takes its shard from rank 0."""
        return self._deepspeed.zero.GatheredParameters(list(parameters), modifier_rank=0)

    def scale_weights(self, factor: float) -> None:
        """Multiply every weight of the forward pass. The optimizer's own copy stays as it is."""
        for parameter in self._policy.parameters():
            with self.writing([parameter]), torch.no_grad():
                parameter.mul_(factor)

    def save(self, folder: Path) -> None:
        """Write this rank's shard; every rank must call it."""
        self.module.save_checkpoint(str(folder), tag="deepspeed", exclude_frozen_parameters=True)

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


def split_configuration(options: StrategyOptions) -> dict[str, Any] | None:
    """Returns DeepSpeed's configuration where the model is to be split over the ranks as it is loaded, or None."""
    if options.strategy != "deepspeed" or options.effective_stage < 3 or _world_size() == 1:
        return None
    import_deepspeed()
    return deepspeed_config(options)


def process_rank() -> int:
    """Returns this process's rank; 0 without a process group."""
    return dist.get_rank() if dist.is_initialized() else 0


def _trained(module: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in module.parameters() if parameter.requires_grad]


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
