"""Both ends of a weight transfer over gloo, registered with vLLM's factories as its own `nccl` is, for a CPU.

`GlooTrainerInfo` is the init info of the trainer. The import of this module registers the engines.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar

import torch
from ray.experimental.internal_kv import _internal_kv_del, _internal_kv_put
from torch._C._distributed_c10d import BroadcastOptions
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer import (
    TrainerWeightTransferEngine,
    WeightTransferEngine,
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.base import TrainerInitInfo, WeightTransferInitInfo, WeightTransferUpdateInfo

BACKEND = f"{__name__}:GlooTrainerInfo"


@dataclass
class GlooTrainerInfo(TrainerInitInfo):
    backend: ClassVar[str] = "gloo"
    master_address: str
    master_port: int
    world_size: int


@dataclass
class MisnamingInfo(GlooTrainerInfo):
    """Its trainer gives every weight the same wrong name."""

    backend: ClassVar[str] = "gloo-misnaming"


@dataclass
class GlooInfo(WeightTransferInitInfo):
    master_address: str
    master_port: int
    world_size: int
    rank_offset: int


@dataclass
class GlooUpdate(WeightTransferUpdateInfo):
    names: list[str]
    dtype_names: list[str]
    shapes: list[list[int]]


def have_one_die(end: str) -> None:
    """One process of `end`, engine or trainer, dies in its next transfer, after half of the weights."""
    _internal_kv_put(f"gloo-transfer-{end}", b"die")


def die_if_asked(end: str) -> None:
    if _internal_kv_del(f"gloo-transfer-{end}"):  # how many keys there were: one process finds it
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)


def connect(info: GlooInfo | GlooTrainerInfo, rank: int) -> Any:
    return stateless_init_torch_distributed_process_group(
        info.master_address, info.master_port, rank, info.world_size, "gloo", timeout=timedelta(seconds=60)
    )


def broadcast(group: Any, tensor: torch.Tensor) -> None:
    options = BroadcastOptions()
    options.rootRank, options.rootTensor = 0, 0
    group.broadcast([tensor], options).wait()


class GlooEngine(WeightTransferEngine[GlooInfo, GlooUpdate]):
    init_info_cls, update_info_cls = GlooInfo, GlooUpdate
    group: Any = None

    def init_transfer_engine(self, init_info: GlooInfo) -> None:
        self.group = connect(init_info, init_info.rank_offset + self.parallel_config.rank)

    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        finalize_layerwise_reload(self.model, self.model_config)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))  # without vLLM's wait for an accelerator

    def receive_weights(self, update_info: GlooUpdate) -> None:
        fields = zip(update_info.names, update_info.dtype_names, update_info.shapes, strict=True)
        for index, (name, dtype, shape) in enumerate(fields):
            if index == len(update_info.names) // 2:
                die_if_asked("engine")
            weight = torch.empty(shape, dtype=getattr(torch, dtype))
            broadcast(self.group, weight)
            model: Any = self.model
            model.load_weights([(name, weight)])

    def shutdown(self) -> None:
        self.group = None


class GlooTrainer(TrainerWeightTransferEngine[GlooTrainerInfo]):
    init_info_cls = GlooTrainerInfo
    group: Any = None

    @classmethod
    def trainer_init(cls, init_info: GlooTrainerInfo, *, client: Any, source: Any = None) -> GlooTrainer:
        trainer = cls(client=client, source=source, is_sender=init_info.is_sender)
        if trainer.is_sender:
            fields: Mapping[str, Any] = {
                "master_address": init_info.master_address,
                "master_port": init_info.master_port,
                "world_size": init_info.world_size,
                "rank_offset": 1,
            }
            with ThreadPoolExecutor(1) as threads:
                engines = threads.submit(client.init_weight_transfer_engine, fields)
                trainer.group = connect(init_info, 0)
                engines.result()
        return trainer

    def send_weights(self) -> None:
        source: Any = self.source
        metadata = source.metadata()
        if not self.is_sender:
            for _ in source:
                pass
            return
        update = {
            "names": [self.name_of(it.name) for it in metadata],
            "dtype_names": [str(it.dtype).removeprefix("torch.") for it in metadata],
            "shapes": [list(it.shape) for it in metadata],
        }
        self.client.start_weight_update()
        with ThreadPoolExecutor(1) as threads:
            engines = threads.submit(self.client.update_weights, update)
            for index, (declared, (name, weight)) in enumerate(zip(metadata, source, strict=True)):
                assert (name, weight.dtype, tuple(weight.shape)) == (declared.name, declared.dtype, declared.shape)
                if index == len(metadata) // 2:
                    die_if_asked("trainer")
                broadcast(self.group, weight.contiguous())
            engines.result()
        self.client.finish_weight_update()

    @staticmethod
    def name_of(name: str) -> str:
        return name

    def shutdown(self) -> None:
        if self.group is not None:
            self.group.shutdown()
            self.group = None


class MisnamingTrainer(GlooTrainer):
    @staticmethod
    def name_of(name: str) -> str:
        return "no.such.weight"


if "gloo" not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine("gloo", GlooEngine)
    WeightTransferTrainerFactory.register_engine("gloo", GlooTrainer)
    WeightTransferTrainerFactory.register_engine(MisnamingInfo.backend, MisnamingTrainer)
