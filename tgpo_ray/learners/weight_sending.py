"""WeightSender, the learners' end of vLLM's weight transfer."""

from __future__ import annotations

import dataclasses
import socket
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import ray
import torch
from ray.exceptions import RayError
from torch import Tensor

from tgpo_ray.models import ChannelClient, CheckpointLayout, WeightTransfer, trainer_info_class

if TYPE_CHECKING:
    from vllm.distributed.weight_transfer import ParamMeta

PACKED_BYTES = 256 * 2**20  # one packed buffer; the default of 1 GiB would take twice that from a KV cache


class LearnerWeights:
    """vLLM's `WeightSource` over a rank's `named_weights`, which gather one ZeRO-3 parameter at a time.

    It has them as a checkpoint does (see `CheckpointLayout`).

    Every rank must walk all of them, also after an error, because the gather is a collective.
    """

    def __init__(
        self,
        checkpoint: CheckpointLayout,
        dtype: torch.dtype,
        named_weights: Callable[[], Iterator[tuple[str, Tensor]]],
    ) -> None:
        self._checkpoint, self._dtype, self._named_weights = checkpoint, dtype, named_weights
        self._walk: Iterator[tuple[str, Tensor]] = iter(())

    def metadata(self) -> list[ParamMeta]:
        from vllm.distributed.weight_transfer import ParamMeta

        return [ParamMeta(it.name, it.dtype, it.shape) for it in self._checkpoint.sent(self._dtype)]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        self.begin()
        for name, weight in self._walk:
            # ZeRO-3 frees a gathered weight at the next one, and the sender may pack it later
            yield name, weight.clone()

    def begin(self) -> None:
        """Begin a round. The walk of a round that never asks for its weights is still to do."""
        self._walk = self._checkpoint.weights(self._named_weights())

    def end(self) -> None:
        """Walk what is left of this round, so that the other ranks are not left waiting."""
        for _ in self._walk:
            pass


class WeightSender:
    """vLLM's trainer-side engine on one rank. Its connection stays open as long as the engines are the same.

    Rank 0 sends. vLLM opens the connection as a `StatelessProcessGroup`, apart from the ranks' own process group.
    """

    def __init__(self, rank: int, weights: LearnerWeights, device: torch.device) -> None:
        self._rank, self._weights, self._device = rank, weights, device
        self._client = ChannelClient()
        self._engine: Any = None
        self._closing = threading.Lock()
        self._open_to: tuple[str, tuple[str, ...]] | None = None  # backend and members

    def send(self, transfer: WeightTransfer) -> str:
        """Returns "", or what went wrong. The learner itself is as before in either case."""
        self._client.transfer = transfer
        self._weights.begin()
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)  # vLLM takes the present one
        threading.Thread(target=self._close_on_failure, args=(transfer,), daemon=True).start()
        try:
            if self._rank == 0:
                transfer.ask("wait_for_engines")
            if self._open_to != (transfer.backend, transfer.members):
                self._open(transfer)
            self._engine.send_weights()
        except Exception as error:
            traceback.print_exc()
            problem = f"learner rank {self._rank} cannot send its weights: {type(error).__name__}: {error}"
            transfer.fail(problem)
            self.close()
            self._weights.end()
            return problem
        return ""

    def _open(self, transfer: WeightTransfer) -> None:
        from vllm.distributed.weight_transfer import WeightTransferTrainerFactory

        self.close()
        kind = trainer_info_class(transfer.backend)
        values = {
            "rank": self._rank,
            "packed": True,
            "packed_buffer_size_bytes": PACKED_BYTES,
            "world_size": transfer.world_size,
            "master_address": ray.util.get_node_ip_address(),
            "master_port": _free_port(),
        }
        names = {field.name for field in dataclasses.fields(kind)}
        info = kind(**{name: value for name, value in values.items() if name in names})
        source: Any = self._weights
        self._engine = WeightTransferTrainerFactory.trainer_init(info, client=self._client, source=source)
        self._open_to = transfer.backend, transfer.members

    def _close_on_failure(self, transfer: WeightTransfer) -> None:
        """Abort the connection when the other side has failed: a collective that lacks a member never returns."""
        try:
            failed = bool(transfer.ask("failure"))
        except RayError:  # the driver has died, and its channel with it
            failed = True
        if failed and self._client.transfer is transfer:
            self.close()

    def close(self) -> None:
        """End the connection."""
        with self._closing:
            engine, self._engine, self._open_to = self._engine, None, None
        if engine is not None:
            engine.shutdown()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
