"""The mailbox without Ray: ranks that come and go, and a driver that has or has not noticed their restart."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from tgpo_ray.learners.command_mailbox import Mailbox


def run(work: Callable[[Mailbox], Awaitable[Any]], *arguments: Any) -> Any:
    async def with_mailbox() -> Any:
        return await work(Mailbox(1, *arguments))

    return asyncio.run(with_mailbox())


async def obey(mailbox: Mailbox, token: str, after: int = 0) -> int:
    """The one rank carries out the next command, and answers with its name; returns the command's number."""
    command = await mailbox.next_command(token, 0, after)
    assert command is not None
    await mailbox.reply(token, 0, command.number, command.name)
    return command.number


def test_a_command_from_before_the_first_start_waits_for_the_ranks():
    async def work(mailbox: Mailbox) -> Any:
        number = await mailbox.post("ping", [None])
        await mailbox.join("first", 0, "node", 1)
        assert await obey(mailbox, "first") == number
        return await mailbox.result(number)

    assert run(work) == ("done", ["ping"])


def test_a_restart_ends_what_is_pending_and_every_later_command_until_it_is_noticed():
    async def work(mailbox: Mailbox) -> list[Any]:
        await mailbox.join("first", 0, "node", 1)
        pending = await mailbox.post("step", [None])
        await mailbox.join("second", 0, "node", 2)
        late = await mailbox.post("step", [None])
        known = await mailbox.restarts()
        noticed = await mailbox.post("ping", [None], known)
        assert await obey(mailbox, "second") == noticed  # the rank has seen none of the others
        return [known, *[(await mailbox.result(number))[0] for number in (pending, late, noticed)]]

    assert run(work) == [1, "restarted", "restarted", "done"]


def test_a_rank_that_already_waits_gets_no_command_of_a_driver_that_has_not_noticed():
    async def work(mailbox: Mailbox) -> tuple[int, int]:
        for token in ("first", "second"):
            await mailbox.join(token, 0, "node", 1)
        waiting = asyncio.create_task(mailbox.next_command("second", 0, 0))
        await asyncio.sleep(0)
        await mailbox.post("step", [None])
        noticed = await mailbox.post("ping", [None], 1)
        command = await waiting
        assert command is not None and command.name == "ping"
        return command.number, noticed

    number, noticed = run(work)
    assert number == noticed


def test_ranks_that_come_after_the_loss_of_a_mailbox_start_from_its_checkpoint_and_count_on():
    async def work(mailbox: Mailbox) -> Any:
        refused = await mailbox.post("step", [None], 1)
        start = await mailbox.join("first", 0, "node", 1)
        assert start is not None
        return start.resume_from, await mailbox.restarts(), (await mailbox.result(refused))[0]

    assert run(work, "runs/checkpoint", 2) == ("runs/checkpoint", 2, "restarted")


def test_a_rank_of_an_earlier_start_is_told_to_stop_and_its_answer_is_dropped():
    async def work(mailbox: Mailbox) -> Any:
        await mailbox.join("first", 0, "node", 1)
        await mailbox.join("second", 0, "node", 2)
        command = await mailbox.next_command("first", 0, 0)
        assert command is not None and command.name == "stop"
        number = await mailbox.post("ping", [None], 1)
        await mailbox.reply("first", 0, number, "late")
        await obey(mailbox, "second")
        return await mailbox.result(number)

    assert run(work) == ("done", ["ping"])
