"""vLLM's weight transfer, ordered by the driver: `WeightTransfer`, its channel, and both of its ends.

vLLM's trainer drives an engine by four calls: init, start, update, finish. Here it makes them on a channel, from which
each engine takes them when it is ready for new weights. The weights themselves take the backend's way (NCCL, CUDA IPC).
So a runner is never interrupted, and all it gets is one `WeightTransfer`.
"""

from __future__ import annotations

import asyncio
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError

if TYPE_CHECKING:
    from tgpo_ray.models.weight_buckets import Bucket

INIT, START, UPDATE, FINISH = (
    "init_weight_transfer_engine",
    "start_weight_update",
    "update_weights",
    "finish_weight_update",
)


class WeightTransferError(RuntimeError):
    """One end of a transfer has failed, so the weights of every engine in it may be mixed."""


@dataclass(frozen=True)
class WeightTransfer:
    """One set of weights on its way from the learners to engines, as a runner gets it.

    Args:
        backend: as in `EngineSpec.weight_transfer`.
        channel: handle of the `TransferChannel`.
        members: Ray ids of the actors whose engines receive. Their order is that of their ranks.
        num_workers: processes of one engine.
    """

    backend: str
    channel: Any
    members: tuple[str, ...]
    num_workers: int = 1

    @property
    def world_size(self) -> int:
        """Processes that take part: rank 0 of the learners, and every worker of every engine."""
        return 1 + len(self.members) * self.num_workers

    def fail(self, reason: str) -> None:
        """Ends every wait of both sides with `WeightTransferError`."""
        self.channel.fail.remote(reason)


class TransferChannel:
    """Async Ray actor between the trainer's calls and the engines that carry them out, for one transfer."""

    def __init__(self, members: Sequence[str]) -> None:
        self._members = tuple(members)
        self._done: dict[str, int] = {}  # calls that an engine has carried out; an engine that has not joined is absent
        self._calls: list[tuple[str, dict[str, Any]]] = []
        self._failure = ""
        self._changed = asyncio.Condition()

    async def fail(self, reason: str) -> None:
        async with self._changed:
            self._failure = self._failure or reason
            self._changed.notify_all()

    async def failure(self) -> str:
        """Returns the reason once there is one."""
        async with self._changed:
            await self._changed.wait_for(lambda: bool(self._failure))
        return self._failure

    async def wait_for_engines(self, num_calls: int = 0) -> None:
        """Returns after every engine has joined and carried out the first `num_calls` calls."""
        async with self._changed:
            await self._wait_until(lambda: all(self._done.get(it, -1) >= num_calls for it in self._members))

    async def call(self, method: str, arguments: dict[str, Any]) -> None:
        """Returns after every engine has carried out the call."""
        async with self._changed:
            self._calls.append((method, arguments))
            self._changed.notify_all()
        await self.wait_for_engines(len(self._calls))

    async def next_call(self, member: str, num_done: int) -> tuple[str, dict[str, Any]]:
        """Returns the call after the `num_done` that the engine of `member` has carried out."""
        await self.done(member, num_done)
        async with self._changed:
            await self._wait_until(lambda: len(self._calls) > num_done)
            return self._calls[num_done]

    async def done(self, member: str, num_done: int) -> None:
        async with self._changed:
            self._done[member] = num_done
            self._changed.notify_all()

    async def _wait_until(self, condition: Callable[[], bool]) -> None:
        await self._changed.wait_for(lambda: bool(self._failure) or condition())
        if self._failure:
            raise WeightTransferError(self._failure)


class ChannelClient:
    """vLLM's `VLLMWeightSyncClient` of a trainer, over the channel of the present transfer."""

    def __init__(self) -> None:
        self.channel: Any = None

    def _call(self, method: str, **arguments: object) -> None:
        ray.get(self.channel.call.remote(method, arguments))

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._call(INIT, init_info=init_info)

    def start_weight_update(self) -> None:
        self._call(START)

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        self._call(UPDATE, update_info=update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call(FINISH)


def receive_weights(
    transfer: WeightTransfer, member: str, workers: Callable[[str, Mapping[str, Any]], object]
) -> None:
    """Carry out the trainer's calls on an engine, from the first to `finish_weight_update`.

    Args:
        member: Ray id of the actor of this engine.
        workers: calls a method of every worker of the engine.

    Raises:
        WeightTransferError: the other end or another engine has failed.
        Exception: what a worker raised. The transfer has failed for all.
    """
    num_done, method = 0, ""
    try:
        while method != FINISH:
            method, arguments = ray.get(transfer.channel.next_call.remote(member, num_done))
            if method == INIT:
                workers("shutdown_weight_transfer_engine", {})  # the connection to earlier members, where there is one
                arguments = {"init_info": _of_member(arguments["init_info"], transfer, member)}
            workers(method, arguments)
            num_done += 1
        ray.get(transfer.channel.done.remote(member, num_done))
    except RayError:  # of the channel: all know
        raise
    except Exception as error:
        transfer.fail(f"an engine has failed in {method}: {type(error).__name__}: {error}")
        raise


def _of_member(init_info: Mapping[str, Any], transfer: WeightTransfer, member: str) -> dict[str, Any]:
    """The init info with this engine's ranks, which in vLLM's own are those of the first engine."""
    info = dict(init_info)
    if "rank_offset" in info:
        info["rank_offset"] += transfer.members.index(member) * transfer.num_workers
    return info


WeightUpdate = Sequence["ray.ObjectRef[Bucket] | Bucket"] | WeightTransfer
"""What an engine loads: buckets, or references to them in the object store, or a transfer to take part in."""


def trainer_info_class(backend: str) -> Any:
    """Returns the class of the trainer's init info, whose `backend` is the name in vLLM's factories.

    Args:
        backend: nccl, ipc, or `module:Class` of one's own, whose module registers both ends with vLLM's factories.
    """
    if backend == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        return NCCLTrainerInitInfo
    if backend == "ipc":
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        return IPCTrainerInitInfo
    return pkgutil.resolve_name(backend)
