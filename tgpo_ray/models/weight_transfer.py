"""vLLM's weight transfer, ordered by the driver: `WeightTransfer`, its channel, and both of its ends.

vLLM's trainer drives an engine by four calls: init, start, update, finish. Here it makes them on a channel, from which
each engine takes them when it is ready for new weights. The weights themselves take the backend's way (NCCL, CUDA IPC).
So a runner is never interrupted, and all it gets is one `WeightTransfer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError

from tgpo_ray.models.weight_buckets import Bucket, fetched

INIT, START, UPDATE, FINISH = (
    "init_weight_transfer_engine",
    "start_weight_update",
    "update_weights",
    "finish_weight_update",
)


class WeightTransferError(RuntimeError):
    """One end of a transfer has failed, so the weights of every engine in it may be mixed."""


class TransferNotBegunError(WeightTransferError):
    """A transfer has failed before this engine got a weight: its model is as it was."""


@dataclass(frozen=True)
class WeightTransfer:
    """One set of weights on its way from the learners to engines, as a runner gets it.

    Args:
        backend: as in `EngineSpec.weight_transfer`.
        channel, number: handle of the `TransferChannel`, and the transfer's number there.
        members: Ray ids of the actors whose engines receive. Their order is that of their ranks.
        num_workers: processes of one engine.
    """

    backend: str
    channel: Any
    number: int
    members: tuple[str, ...]
    num_workers: int = 1

    @property
    def world_size(self) -> int:
        """Processes that take part: rank 0 of the learners, and every worker of every engine."""
        return 1 + len(self.members) * self.num_workers

    def fail(self, reason: str) -> None:
        """Ends every wait of both sides with `WeightTransferError`."""
        self.channel.fail.remote(self.number, reason)

    def failure(self) -> str:
        """Returns why the transfer has failed, or "" where it has not so far."""
        try:
            return self.ask("failure_so_far")
        except RayActorError:
            return "the channel of the weight transfer has died"

    def ask(self, method: str, *arguments: object) -> Any:
        """Returns the channel's answer about this transfer.

        Raises:
            WeightTransferError: the transfer has failed or is over.
        """
        return ray.get(getattr(self.channel, method).remote(self.number, *arguments))


WeightUpdate = Sequence[ray.ObjectRef[Bucket] | Bucket] | WeightTransfer
"""What an engine loads: buckets, or references to them in the object store, or a transfer to take part in."""


class _State:
    """One transfer, as the channel sees it."""

    def __init__(self, members: Sequence[str]) -> None:
        self.members = tuple(members)
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.done: dict[str, int] = {}  # calls that an engine has carried out; one that has not joined is absent
        self.failure: str | None = None  # "": the transfer is over
        self.changed = asyncio.Condition()

    async def change(self, change: Callable[[], object]) -> None:
        async with self.changed:
            change()
            self.changed.notify_all()

    async def wait_until(self, condition: Callable[[], bool]) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.failure is not None or condition())
        if self.failure is not None:
            raise WeightTransferError(self.failure or "the transfer is over")


class TransferChannel:
    """Async Ray actor between the trainer's calls and the engines that carry them out.

    Every transfer has its number. What it holds is dropped at its end.
    """

    def __init__(self) -> None:
        self._states: dict[int, _State] = {}
        self._last = 0

    async def begin(self, members: Sequence[str]) -> int:
        """Returns the number of a new transfer."""
        self._last += 1
        self._states[self._last] = _State(members)
        return self._last

    async def end(self, number: int) -> None:
        state = self._states.pop(number, None)
        if state is not None:
            await state.change(lambda: setattr(state, "failure", state.failure or ""))

    async def fail(self, number: int, reason: str) -> None:
        state = self._states.get(number)
        if state is not None:
            await state.change(lambda: setattr(state, "failure", state.failure or reason))

    async def failure_so_far(self, number: int) -> str:
        """Returns the reason if the transfer has failed, else ""."""
        state = self._states.get(number)
        return (state.failure or "") if state is not None else ""

    async def failure(self, number: int) -> str:
        """Returns the reason once the transfer has failed, or "" at its end."""
        state = self._states.get(number)
        if state is None:
            return ""
        with contextlib.suppress(WeightTransferError):
            await state.wait_until(lambda: False)
        return state.failure or ""

    async def wait_for_engines(self, number: int, num_calls: int = 0) -> None:
        """Returns after every engine has joined and carried out the first `num_calls` calls."""
        state = self._state(number)
        await state.wait_until(lambda: all(state.done.get(it, -1) >= num_calls for it in state.members))

    async def call(self, number: int, method: str, arguments: dict[str, Any]) -> None:
        """Returns after every engine has carried out the call."""
        state = self._state(number)
        await state.change(lambda: state.calls.append((method, arguments)))
        await self.wait_for_engines(number, len(state.calls))

    async def next_call(self, number: int, member: str, num_done: int) -> tuple[str, dict[str, Any]]:
        """Returns the call after the `num_done` that the engine of `member` has carried out."""
        state = self._state(number)
        await self.done(number, member, num_done)
        await state.wait_until(lambda: len(state.calls) > num_done)
        return state.calls[num_done]

    async def done(self, number: int, member: str, num_done: int) -> None:
        state = self._state(number)
        await state.change(lambda: state.done.__setitem__(member, num_done))

    def _state(self, number: int) -> _State:
        if number not in self._states:
            raise WeightTransferError("the transfer is over")
        return self._states[number]


class ChannelClient:
    """vLLM's `VLLMWeightSyncClient` of a trainer, over the channel of the present transfer."""

    def __init__(self) -> None:
        self.transfer: WeightTransfer | None = None

    def _call(self, method: str, **arguments: object) -> None:
        assert self.transfer is not None, "the trainer has made a call outside a transfer"
        self.transfer.ask("call", method, arguments)

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        self._call(INIT, init_info=init_info)

    def start_weight_update(self) -> None:
        self._call(START)

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        self._call(UPDATE, update_info=update_info)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        self._call(FINISH)


def load_update(update: WeightUpdate, collective_rpc: Callable[..., object], *, in_process: bool) -> None:
    """Have the workers of an engine load the update.

    Args:
        collective_rpc: vLLM's, which calls a method of every worker.
        in_process: the workers run in this process.

    Raises:
        WeightTransferError: the transfer has failed. The model's weights may be mixed, so it is of no more use.
    """
    if isinstance(update, WeightTransfer):
        ours = {START: "tgpo_start_transfer", FINISH: "tgpo_finish_transfer"}  # each calls vLLM's
        receive_weights(update, lambda method, **it: collective_rpc(ours.get(method, method), kwargs=it))
    else:
        # vLLM's tensor-parallel processes are no Ray processes and cannot resolve references
        collective_rpc("tgpo_load_weights", args=(update if in_process else fetched(update),))


def receive_weights(transfer: WeightTransfer, workers: Callable[..., object]) -> None:
    """Carry out the trainer's calls on this actor's engine, from the first to `finish_weight_update`.

    Args:
        workers: workers(method, **arguments) calls a method of every worker of the engine.

    Raises:
        TransferNotBegunError: the transfer has failed before the first weight.
        WeightTransferError: the other end or another engine has failed.
        Exception: what a worker raised. The transfer has failed for all.
    """
    member = ray.get_runtime_context().get_actor_id()
    assert member is not None, "only the engine of a Ray actor takes part in a transfer"
    num_done, method, begun = 0, "", False
    try:
        while method != FINISH:
            method, arguments = transfer.ask("next_call", member, num_done)
            begun = begun or method != INIT
            if method == INIT:
                workers("shutdown_weight_transfer_engine")  # the connection to earlier members, where there is one
                arguments = {"init_info": _of_member(arguments["init_info"], transfer, member)}
            workers(method, **arguments)
            num_done += 1
        transfer.ask("done", member, num_done)
    except Exception as error:
        if not isinstance(error, RayError):  # that is the channel's: all know
            transfer.fail(f"an engine has failed in {method}: {type(error).__name__}: {error}")
        if not begun:
            raise TransferNotBegunError(str(getattr(error, "cause", error))) from error
        raise


def _of_member(init_info: Mapping[str, Any], transfer: WeightTransfer, member: str) -> dict[str, Any]:
    """The init info with this engine's ranks, which in vLLM's own are those of the first engine."""
    info = dict(init_info)
    if "rank_offset" in info:
        info["rank_offset"] += transfer.members.index(member) * transfer.num_workers
    return info


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
