"""The channel between a trainer's calls and the engines that carry them out, and the walk of the learners' weights."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from tgpo_ray.learners.weight_sending import LearnerWeights
from tgpo_ray.models.checkpoint_layout import CheckpointLayout
from tgpo_ray.models.weight_transfer import (
    TransferChannel,
    WeightTransfer,
    WeightTransferError,
    _of_member,
    trainer_info_class,
)

MEMBERS = ("a", "b")


async def engine(channel: TransferChannel, number: int, member: str, num_calls: int) -> list[str]:
    seen: list[str] = []
    while len(seen) < num_calls:
        method, _ = await channel.next_call(number, member, len(seen))
        seen.append(method)
    await channel.done(number, member, len(seen))
    return seen


def test_every_engine_carries_out_every_call_in_order_and_a_call_ends_after_the_slowest():
    async def run() -> None:
        channel = TransferChannel()
        number = await channel.begin(MEMBERS)
        first = asyncio.create_task(engine(channel, number, "a", 2))
        waiting = asyncio.create_task(channel.wait_for_engines(number))
        await asyncio.sleep(0.01)
        assert not waiting.done()  # b has not joined
        second = asyncio.create_task(channel.next_call(number, "b", 0))
        await waiting

        call = asyncio.create_task(channel.call(number, "start", {}))
        assert (await second)[0] == "start"
        await asyncio.sleep(0.01)
        assert not call.done()  # b has the call and has not carried it out
        third = asyncio.create_task(channel.next_call(number, "b", 1))
        await call
        last = asyncio.create_task(channel.call(number, "finish", {}))
        assert (await third)[0] == "finish"
        await channel.done(number, "b", 2)
        await last
        assert await first == ["start", "finish"]

    asyncio.run(run())


def test_a_failure_ends_every_wait_of_both_ends_with_its_reason():
    async def run() -> None:
        channel = TransferChannel()
        number = await channel.begin(MEMBERS)
        watcher = asyncio.create_task(channel.failure(number))
        waits = [
            asyncio.create_task(each) for each in (channel.next_call(number, "a", 0), channel.wait_for_engines(number))
        ]
        await asyncio.sleep(0.01)
        await channel.fail(number, "b has died")
        await channel.fail(number, "a later reason")
        for wait in waits:
            with pytest.raises(WeightTransferError, match="b has died"):
                await wait
        assert await watcher == "b has died"

    asyncio.run(run())


def test_a_transfer_that_is_over_holds_nothing_and_refuses_calls():
    async def run() -> None:
        channel = TransferChannel()
        number, other = await channel.begin(MEMBERS), await channel.begin(["c"])
        watcher = asyncio.create_task(channel.failure(number))
        await asyncio.sleep(0.01)
        await channel.end(number)
        assert await watcher == ""
        assert await channel.failure(number) == ""
        assert list(channel._states) == [other]
        await channel.fail(number, "too late")
        with pytest.raises(WeightTransferError, match="the transfer is over"):
            await channel.next_call(number, "a", 0)

    asyncio.run(run())


def test_the_ranks_of_engines_follow_rank_0_of_the_learners_in_the_order_of_the_members():
    transfer = WeightTransfer("nccl", None, 1, ("a", "b", "c"), num_workers=2)
    assert transfer.world_size == 7
    infos = [_of_member({"rank_offset": 1, "packed": True}, transfer, member) for member in transfer.members]
    assert infos == [{"rank_offset": offset, "packed": True} for offset in (1, 3, 5)]
    assert _of_member({"packed": True}, transfer, "b") == {"packed": True}  # ipc has no ranks


@pytest.mark.parametrize("backend", ["nccl", "ipc"])
def test_the_names_of_the_configuration_are_those_of_vllms_factories(backend: str):
    from vllm.distributed.weight_transfer import WeightTransferEngineFactory, WeightTransferTrainerFactory

    info = trainer_info_class(backend)
    assert info.backend == backend
    assert backend in WeightTransferEngineFactory._registry
    assert backend in WeightTransferTrainerFactory._registry


def make_source(walked: list[str]) -> LearnerWeights:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.Linear(3, 1))

    def named_weights() -> Iterator[tuple[str, torch.Tensor]]:
        for name, weight in model.named_parameters():
            walked.append(name)
            yield name, weight.detach()

    return LearnerWeights(CheckpointLayout(model), torch.float32, named_weights)


def test_what_is_declared_is_what_is_walked():
    source = make_source([])
    source.begin()
    declared = [(it.name, it.dtype, it.shape) for it in source.metadata()]
    assert declared == [(name, weight.dtype, tuple(weight.shape)) for name, weight in source]


@pytest.mark.parametrize("num_sent", [None, 0, 1, 4])
def test_after_an_error_the_rest_is_walked_once(num_sent: int | None):
    walked: list[Any] = []
    source = make_source(walked)
    source.begin()
    if num_sent is not None:
        weights = iter(source)
        for _ in range(num_sent):
            next(weights)
    source.end()
    assert walked == ["0.weight", "0.bias", "1.weight", "1.bias"]
