"""Mailbox: the actor between the driver's readable loop and the training function that Ray Train runs.

The driver posts a command with one payload for each rank and awaits all ranks' answers; ranks poll for the next one.
Ray Train may restart the ranks at any time: each start is an *incarnation* with a token of its own, and what an earlier
one left unanswered ends as `restarted`, so that the driver knows that its update did not happen.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from ray.actor import ActorHandle

POLL_S = 10.0
MAX_FINISHED = 64

Status = Literal["done", "error", "restarted"]


@dataclass(frozen=True)
class Command:
    """One order to the ranks, as a rank receives it. `number` rises by one with every post."""

    number: int
    name: str
    payload: Any


@dataclass(frozen=True)
class Start:
    """What a rank that has joined begins with: the checkpoint to load, or None for the model as it is on disk."""

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
    """Async Ray actor. One for each LearnerGroup, never named: two groups live side by side."""

    def __init__(self, num_ranks: int) -> None:
        self._num_ranks = num_ranks
        self._tickets: dict[int, _Ticket] = {}
        self._last = 0
        self._first_of_incarnation = 1
        self._token: str | None = None
        self._posted = asyncio.Condition()
        self._resume_from: str | None = None
        self._processes: dict[int, tuple[str, int]] = {}
        self._ranks: dict[int, Any] = {}
        self._stopping = False
        self._failure: str | None = None

    # -- driver ------------------------------------------------------------------------------------------------------

    async def post(self, name: str, payloads: list[Any]) -> int:
        """Queue a command and return its number; `payloads` has one entry a rank."""
        async with self._posted:
            self._last += 1
            self._tickets[self._last] = _Ticket(name, payloads)
            if self._failure is not None:
                self._tickets[self._last].finish("error", self._failure)
            self._posted.notify_all()
        return self._last

    async def result(self, number: int) -> tuple[Status, list[Any] | str]:
        """Wait until every rank has answered: ("done", replies by rank), ("error", text) or ("restarted", "")."""
        ticket = self._tickets[number]
        await ticket.finished.wait()
        for old in [n for n in self._tickets if n <= number - MAX_FINISHED]:
            del self._tickets[old]
        if ticket.status == "done":
            return "done", [ticket.replies[rank] for rank in range(self._num_ranks)]
        return ticket.status or "error", ticket.error

    async def fail_pending(self, error: str) -> None:
        """End every open command, and those to come: the training run itself is over."""
        self._failure = error
        for ticket in self._tickets.values():
            ticket.finish("error", error)

    async def set_resume(self, path: str | None) -> None:
        """The checkpoint from which the next incarnation starts: the newest one whose driver state is known too."""
        self._resume_from = path

    async def processes(self) -> list[tuple[str, int]]:
        """(node id, process id) of each rank of the present incarnation."""
        return [self._processes[rank] for rank in sorted(self._processes)]

    async def stop(self) -> list[Any]:
        """End the ranks of this and any later incarnation, after the command they are at; returns their actors.

        Not a command like others: what is queued before it is dropped, and ranks that Ray Train starts afterwards end
        at once.
        """
        async with self._posted:
            self._stopping = True
            self._posted.notify_all()
        return list(self._ranks.values())

    # -- ranks -------------------------------------------------------------------------------------------------------

    async def join(
        self, token: str, rank: int, node_id: str, pid: int, worker: ActorHandle[Any] | None = None
    ) -> Start | None:
        """A rank's first call; None: the group has been stopped. A new token ends the incarnation before it.

        Args:
            worker: the rank's own actor handle, by which it can be killed where it no longer answers.
        """
        if self._stopping:
            return None
        if token != self._token:
            if self._token is not None:  # commands posted before the very first start are simply waiting for it
                self._first_of_incarnation = self._last + 1
                for ticket in self._tickets.values():
                    ticket.finish("restarted")
            self._token, self._processes, self._ranks = token, {}, {}
        self._processes[rank], self._ranks[rank] = (node_id, pid), worker
        return Start(self._resume_from)

    async def next_command(self, token: str, rank: int, after: int) -> Command | None:
        """The command after number `after`; None where none came within POLL_S seconds (ask again)."""
        number = max(after + 1, self._first_of_incarnation)
        if token != self._token:
            return Command(number, "stop", None)
        try:
            async with asyncio.timeout(POLL_S), self._posted:
                await self._posted.wait_for(lambda: self._stopping or number <= self._last)
        except TimeoutError:
            return None
        if self._stopping:
            return Command(number, "stop", None)
        ticket = self._tickets[number]
        return Command(number, ticket.name, ticket.payloads[rank] if ticket.payloads else None)

    async def reply(self, token: str, rank: int, number: int, value: object, error: str = "") -> None:
        ticket = self._tickets.get(number)
        if token != self._token or ticket is None:
            return
        if error:
            ticket.finish("error", error)
            return
        ticket.replies[rank] = value
        if len(ticket.replies) == self._num_ranks:
            ticket.finish("done")
