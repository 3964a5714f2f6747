"""TaskQueue, the actor from which runners draw their next tasks, and the two sources of tasks that a runner reads."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections import deque
from collections.abc import Collection, Sequence
from typing import Any, NamedTuple, Protocol

import ray

from tgpo_ray.episode import Task, TaskKey

POLL_S = 5.0  # an idle runner asks again after this long


class Helping(NamedTuple):
    """The tasks of one draw. After the last one no more will come."""

    tasks: list[Task]
    is_last: bool


class TaskQueue:
    """Async Ray actor with the tasks that no runner has begun. It remembers which runner drew which task.

    Ray starts it again if its process dies. It then has no task and no session, so the runners' streams end, and the
    session on the driver puts what is unfinished once more.

    A draw takes as much as the runner asks for, and no more than leaves work for the others: with R runners a helping
    is at most 1/2R of what is left. So nobody holds tasks that another could begin.
    """

    def __init__(self, num_runners: int) -> None:
        self._num_runners = num_runners
        self._life = os.urandom(8).hex()
        self._session = 0
        self._tasks: deque[Task] = deque()
        self._drawn: dict[TaskKey, tuple[int, Task]] = {}
        self._is_complete = True  # no more tasks will be put
        self._changed = asyncio.Condition()

    async def put(self, session: int, tasks: Sequence[Task], *, is_complete: bool) -> str:
        """Returns a name of this process, after appending tasks. Another name says that earlier tasks were lost.

        With `is_complete` the runners' streams end after these tasks. A new session drops the old tasks.
        """
        async with self._changed:
            if session != self._session:
                self._session = session
                self._tasks.clear()
                self._drawn.clear()
            self._tasks.extend(tasks)
            self._is_complete = is_complete
            self._changed.notify_all()
        return self._life

    async def draw(self, session: int, runner: int, most: int, *, wait: bool) -> Helping:
        """Returns the runner's next tasks, `most` at most, or none if nothing is left.

        Args:
            session: the one that the runner works for. An earlier session than the present has no tasks.
            wait: wait for tasks, a few seconds at most, if the queue is empty and not complete.
        """
        if wait:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_S), self._changed:
                    await self._changed.wait_for(lambda: self._tasks or self._is_complete or session != self._session)
        if session != self._session:
            return Helping([], is_last=True)
        share = len(self._tasks) if self._num_runners == 1 else -(-len(self._tasks) // (2 * self._num_runners))
        tasks = [self._tasks.popleft() for _ in range(min(most, share))]
        self._drawn.update({task.key: (runner, task) for task in tasks})
        return Helping(tasks, self._is_complete and not self._tasks)

    async def give_back(self, runner: int, unfinished: Collection[TaskKey]) -> None:
        """Put those of `unfinished` that this runner drew in front again, because it has died."""
        async with self._changed:
            lost = [task for key, (owner, task) in self._drawn.items() if owner == runner and key in unfinished]
            self._tasks.extendleft(reversed(lost))
            self._drawn = {key: drawn for key, drawn in self._drawn.items() if drawn[0] != runner}
            self._changed.notify_all()

    async def forget(self, finished: Collection[TaskKey]) -> None:
        """Drop the record of these tasks."""
        for key in finished:
            self._drawn.pop(key, None)


class TaskSource(Protocol):
    """The place where a runner gets its tasks."""

    session: int

    def draw(self, most: int, *, wait: bool) -> Helping: ...


class TaskList:
    """Tasks that are all there from the start, for a runner without a queue."""

    session = 0

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = deque(tasks)

    def draw(self, most: int, *, wait: bool) -> Helping:
        tasks = [self._tasks.popleft() for _ in range(min(most, len(self._tasks)))]
        return Helping(tasks, not self._tasks)


class QueueReader:
    """One runner's side of a TaskQueue, for one session."""

    def __init__(self, queue: Any, session: int, runner: int) -> None:
        self._queue, self.session, self._runner = queue, session, runner

    def draw(self, most: int, *, wait: bool) -> Helping:
        return Helping(*ray.get(self._queue.draw.remote(self.session, self._runner, most, wait=wait)))
