"""The queue that runners draw tasks from: fair helpings, what a dead runner had, sessions that have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from tgpo_ray.env_runners.task_queue import Helping, TaskList, TaskQueue
from tgpo_ray.episode import Task

AnswerT = TypeVar("AnswerT")


def tasks(count: int, batch: int = 0) -> list[Task]:
    return [Task(0, index, seed=index, ordinal=index, batch=batch) for index in range(count)]


def run(work: Coroutine[Any, Any, AnswerT]) -> AnswerT:
    return asyncio.run(work)


def ordinals(helping: Helping) -> list[int]:
    return [task.ordinal for task in helping.tasks]


def test_one_runner_draws_what_it_has_room_for_in_order():
    async def draws() -> list[Helping]:
        queue = TaskQueue(1)
        await queue.put(1, tasks(5), is_complete=True)
        return [await queue.draw(1, 0, 3, wait=False) for _ in range(3)]

    first, second, third = run(draws())
    assert (ordinals(first), first.is_last) == ([0, 1, 2], False)
    assert (ordinals(second), second.is_last) == ([3, 4], True)
    assert (ordinals(third), third.is_last) == ([], True)


def test_no_runner_takes_what_another_could_begin():
    async def first_draws() -> list[Helping]:
        queue = TaskQueue(4)
        await queue.put(1, tasks(16), is_complete=True)
        return [await queue.draw(1, runner, 100, wait=False) for runner in range(4)]

    assert [len(helping.tasks) for helping in run(first_draws())] == [2, 2, 2, 2]


def test_what_a_dead_runner_had_not_finished_goes_to_the_front():
    async def after_a_death() -> Helping:
        queue = TaskQueue(2)
        await queue.put(1, tasks(8), is_complete=True)
        await queue.draw(1, 0, 2, wait=False)  # 0, 1
        await queue.draw(1, 1, 2, wait=False)  # 2, 3
        await queue.forget([(0, 0)])
        await queue.give_back(0, {(0, 0), (0, 1), (0, 2), (0, 3)})  # the driver may not have read that 0 is done
        return await queue.draw(1, 1, 2, wait=False)

    assert ordinals(run(after_a_death())) == [1, 4]


def test_an_idle_runner_waits_for_tasks_until_the_session_is_complete():
    async def waited() -> list[Helping]:
        queue = TaskQueue(1)
        await queue.put(1, [], is_complete=False)
        first = asyncio.create_task(queue.draw(1, 0, 4, wait=True))
        await asyncio.sleep(0)
        await queue.put(1, tasks(1), is_complete=False)
        found = [await first]
        second = asyncio.create_task(queue.draw(1, 0, 4, wait=True))
        await asyncio.sleep(0)
        await queue.put(1, [], is_complete=True)
        return [*found, await second]

    first, second = run(waited())
    assert (ordinals(first), first.is_last) == ([0], False)
    assert (ordinals(second), second.is_last) == ([], True)


def test_a_runner_of_an_earlier_session_gets_nothing():
    async def drawn() -> Helping:
        queue = TaskQueue(1)
        await queue.put(1, tasks(4), is_complete=False)
        await queue.put(2, tasks(4), is_complete=True)
        return await queue.draw(1, 0, 4, wait=True)

    assert run(drawn()) == Helping([], is_last=True)


def test_a_list_of_tasks_is_drawn_like_a_queue():
    source = TaskList(tasks(3))
    assert [ordinals(source.draw(2, wait=True)), ordinals(source.draw(2, wait=True))] == [[0, 1], [2]]
