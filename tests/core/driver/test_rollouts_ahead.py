"""The order of batches ahead of the learners, with a producer that samples and scores when the test says so."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import pytest

from tgpo_ray.driver.rollouts import Rollouts, Take
from tgpo_ray.driver.rollouts_ahead import RolloutsAhead
from tgpo_ray.driver.stage_times import StageTimes

WAIT_S = 5.0


class Producer:
    """It notes what happens, and waits for `sampled[n]` and `scored[n]` of each batch n."""

    def __init__(self) -> None:
        self.weights: Any = self
        self.env_runners: Any = self
        self.batches: Any = None
        self.events: list[str] = []
        self.happened = threading.Condition()
        self.sampled: dict[int, threading.Event] = defaultdict(threading.Event)
        self.scored: dict[int, threading.Event] = defaultdict(threading.Event)
        self.failing: set[int] = set()

    def note(self, event: str) -> None:
        with self.happened:
            self.events.append(event)
            self.happened.notify_all()

    def until(self, event: str) -> None:
        with self.happened:
            assert self.happened.wait_for(lambda: event in self.events, WAIT_S), (event, self.events)

    def roll_out(self, iteration: int, take: Take, times: StageTimes, sampled: Any) -> Rollouts:
        self.note(f"begin {iteration}")
        assert self.sampled[iteration].wait(WAIT_S)
        sampled()
        assert self.scored[iteration].wait(WAIT_S)
        if iteration in self.failing:
            raise RuntimeError(f"no teacher for {iteration}")
        return Rollouts(metrics={"batch": float(iteration)})

    def sync(self) -> None:
        self.note("sync")

    def interrupt(self) -> None:
        self.note("interrupt")
        for events in (self.sampled, self.scored):
            for event in [events[number] for number in range(10)]:
                event.set()

    def finish(self, iteration: int) -> None:
        self.sampled[iteration].set()
        self.scored[iteration].set()


@pytest.fixture
def producer() -> Iterator[Producer]:
    producer = Producer()
    yield producer
    producer.interrupt()


def batch(source: RolloutsAhead, iteration: int) -> float:
    return source.next(iteration, lambda _: None, StageTimes()).metrics["batch"]


def test_the_next_batch_is_sampled_while_this_one_is_scored_and_never_before_the_weights(producer: Producer):
    source = RolloutsAhead(producer, 1, 4, in_flight=False)
    producer.finish(0)
    assert batch(source, 0) == 0.0
    producer.until("begin 1")
    producer.sampled[1].set()
    assert producer.events == ["begin 0", "begin 1"]  # batch 2 waits for the weights of the first update
    source.publish()
    asked = threading.Thread(target=batch, args=(source, 1))
    asked.start()
    producer.until("begin 2")  # although batch 1 is not scored
    assert producer.events == ["begin 0", "begin 1", "sync", "begin 2"]
    producer.scored[1].set()
    asked.join(WAIT_S)
    assert not asked.is_alive()


def test_a_scorer_that_is_late_does_not_keep_further_batches_from_being_sampled(producer: Producer):
    source = RolloutsAhead(producer, 2, 9, in_flight=False)
    for iteration in (0, 1, 2):
        producer.sampled[iteration].set()
    producer.scored[0].set()
    assert batch(source, 0) == 0.0
    producer.until("begin 2")
    for iteration in (2, 1):  # the answers come in any order
        producer.scored[iteration].set()
    assert [batch(source, iteration) for iteration in (1, 2)] == [1.0, 2.0]


def test_evaluation_waits_until_nothing_is_sampled_or_scored_and_no_batch_begins_meanwhile(producer: Producer):
    source = RolloutsAhead(producer, 1, 4, in_flight=False)
    producer.finish(0)
    batch(source, 0)
    producer.until("begin 1")
    producer.sampled[1].set()
    source.publish()
    rested = threading.Thread(target=source.rest)
    rested.start()
    rested.join(0.1)
    assert rested.is_alive()
    producer.scored[1].set()
    rested.join(WAIT_S)
    assert producer.events == ["begin 0", "begin 1", "sync"]  # with the newest weights
    assert batch(source, 1) == 1.0
    producer.until("begin 2")


def test_an_error_while_a_batch_is_scored_ends_the_wait_for_it(producer: Producer):
    source = RolloutsAhead(producer, 1, 4, in_flight=False)
    producer.failing.add(1)
    for iteration in (0, 1):
        producer.finish(iteration)
    batch(source, 0)
    with pytest.raises(RuntimeError, match="no teacher for 1"):
        batch(source, 1)


def test_what_is_dropped_reaches_nobody_and_the_batch_begins_again(producer: Producer):
    source = RolloutsAhead(producer, 1, 4, in_flight=False)
    producer.finish(0)
    batch(source, 0)
    producer.until("begin 1")
    source.drop()
    assert producer.events[-1] == "interrupt"
    assert batch(source, 1) == 1.0
    assert producer.events.count("begin 1") == 2
