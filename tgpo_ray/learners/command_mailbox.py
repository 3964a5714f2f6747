"""Mailbox: the actor between the loop on the driver and the training function that Ray Train runs.

The driver posts a command with one payload for each rank and waits for the answers of all ranks. The ranks poll for the
next command. Ray Train may restart the ranks at any time. Each start is an *incarnation* with its own token. A command
that an earlier incarnation did not answer ends as `restarted`, so the driver knows that its update did not happen. So
does every later command until the driver has taken notice of the restart: no rank works on weights that went back
unseen.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ray.actor import ActorHandle
    from ray.util.placement_group import PlacementGroup

POLL_S = 10.0
MAX_FINISHED = 64  # answered commands that stay readable

Status = Literal["done", "error", "restarted"]


@dataclass(frozen=True)
class Command:
    """One command to the ranks, as a rank receives it. `number` rises by one with every post."""

    number: int
    name: str
    payload: Any


@dataclass(frozen=True)
class Start:
    """The checkpoint that a rank loads after it has joined, or None for the model as it is on disk."""

    resume_from: str | None


@dataclass
class _Ticket:
    name: str
    payloads: list[Any]
    replies: dict[int, Any] = field(default_factory=dict)
    status: Status | None = None
    error: str = ""
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    def finish(self, status: Status, error: str = "") -> None:
        if self.status is None:
            self.status, self.error = status, error
            self.payloads = []  # the references to episodes must not outlive the command
            self.finished.set()


class Mailbox:
    """Async Ray actor that passes commands to ranks. It has no name, so two LearnerGroups can exist side by side.

    Args:
        resume_from: the checkpoint from which the first incarnation starts.
        num_restarts: restarts of the group before this mailbox.
    """

    def __init__(self, num_ranks: int, resume_from: str | None = None, num_restarts: int = 0) -> None:
        self._num_ranks, self._resume_from, self._num_restarts = num_ranks, resume_from, num_restarts
        self._tickets: dict[int, _Ticket] = {}
        self._last = 0
        self._first_of_incarnation = 1
        self._token: str | None = None
        self._posted = asyncio.Condition()
        self._processes: dict[int, tuple[str, int]] = {}
        self._ranks: dict[int, Any] = {}
        self._placement: Any = None
        self._stopping = False
        self._failure: str | None = None

    # -- driver ------------------------------------------------------------------------------------------------------

    async def post(self, name: str, payloads: list[Any], accepted: int = 0) -> int:
        """Returns the number of the command that it queues; `payloads` has one entry for each rank.

        Args:
            accepted: restarts that the driver knows of. With fewer than there were, no rank gets the command.
        """
        async with self._posted:
            self._last += 1
            self._tickets[self._last] = _Ticket(name, payloads)
            if accepted < self._num_restarts:
                self._first_of_incarnation = self._last + 1
                self._tickets[self._last].finish("restarted")
            if self._failure is not None:
                self._tickets[self._last].finish("error", self._failure)
            self._posted.notify_all()
        return self._last

    async def result(self, number: int) -> tuple[Status, list[Any] | str]:
        """Returns ("done", replies by rank), ("error", text) or ("restarted", "") after every rank has answered.

        The replies are given out once.
        """
        ticket = self._tickets[number]
        await ticket.finished.wait()
        for old in [n for n in self._tickets if n <= number - MAX_FINISHED]:
            del self._tickets[old]
        if ticket.status == "done":
            replies, ticket.replies = ticket.replies, {}  # references to weights must not outlive the answer
            return "done", [replies[rank] for rank in range(self._num_ranks)]
        return ticket.status or "error", ticket.error

    async def fail_pending(self, error: str) -> None:
        """End every open and every later command with `error`, because the training run is over."""
        self._failure = error
        for ticket in self._tickets.values():
            ticket.finish("error", error)

    async def set_resume(self, path: str | None) -> None:
        """Set the checkpoint from which the next incarnation starts: the newest one that has the driver's state too."""
        self._resume_from = path

    async def restarts(self) -> int:
        """Returns the number of restarts of the group so far."""
        return self._num_restarts

    async def processes(self) -> list[tuple[str, int]]:
        """Returns (node id, process id) of each rank of the present incarnation."""
        return [self._processes[rank] for rank in sorted(self._processes)]

    async def ranks(self) -> list[Any]:
        """Returns the actors of the present incarnation, none after the end of the training run."""
        return [] if self._failure is not None else [actor for actor in self._ranks.values() if actor is not None]

    async def placement(self) -> Any:
        """Returns the placement group of the present incarnation, None before the first."""
        return self._placement

    async def stop(self) -> list[Any]:
        """Returns the actors of the ranks, which end after their present command.

        This is not a queued command. Commands that are queued before it are dropped, and ranks that Ray Train starts
        later end at once.
        """
        async with self._posted:
            self._stopping = True
            self._posted.notify_all()
        return list(self._ranks.values())

    # -- ranks -------------------------------------------------------------------------------------------------------

    async def join(
        self,
        token: str,
        rank: int,
        node_id: str,
        pid: int,
        worker: ActorHandle[Any] | None = None,
        placement: PlacementGroup | None = None,
    ) -> Start | None:
        """Returns what a rank starts from, or None if the group has been stopped. It is a rank's first call.

        A new token ends the incarnation before it.

        Args:
            worker: the actor handle of the rank, which is needed to kill a rank that does not answer.
            placement: the placement group of all ranks, which nobody would remove after the death of the controller.
        """
        if self._stopping:
            return None
        if token != self._token:
            if self._token is not None:  # commands posted before the first start of all are valid: they wait for it
                self._first_of_incarnation = self._last + 1
                self._num_restarts += 1
                for ticket in self._tickets.values():
                    ticket.finish("restarted")
            self._token, self._processes, self._ranks = token, {}, {}
        self._processes[rank], self._ranks[rank], self._placement = (node_id, pid), worker, placement
        return Start(self._resume_from)

    async def next_command(self, token: str, rank: int, after: int) -> Command | None:
        """Returns the command after number `after`, or None if there is none within POLL_S seconds: then ask again."""
        if token != self._token:  # a rank of an earlier incarnation that Ray Train has not ended yet
            return Command(after + 1, "stop", None)
        try:
            async with asyncio.timeout(POLL_S), self._posted:
                await self._posted.wait_for(lambda: self._stopping or self._number(after) <= self._last)
        except TimeoutError:
            return None
        number = self._number(after)
        if self._stopping:
            return Command(number, "stop", None)
        ticket = self._tickets[number]
        return Command(number, ticket.name, ticket.payloads[rank] if ticket.payloads else None)

    def _number(self, after: int) -> int:
        """Returns the number of the command that follows for a rank which has done those up to `after`."""
        # a rank of a new incarnation counts from 0 and must skip the commands that the earlier one did not answer
        return max(after + 1, self._first_of_incarnation)

    async def reply(self, token: str, rank: int, number: int, value: object, error: str = "") -> None:
        """Record the answer of a rank. Answers of an earlier incarnation are dropped."""
        ticket = self._tickets.get(number)
        if token != self._token or ticket is None:
            return
        if error:
            ticket.finish("error", error)
            return
        ticket.replies[rank] = value
        if len(ticket.replies) == self._num_ranks:
            ticket.finish("done")
