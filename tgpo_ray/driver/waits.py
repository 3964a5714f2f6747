"""The share of an iteration in which runners, teachers and learners waited."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Protocol


class Worker(Protocol):
    """A pool of actors that counts the seconds in which they work."""

    @property
    def num_workers(self) -> int: ...

    def take_busy_s(self) -> float:
        """Returns the seconds that the actors have worked since the last call, added up."""
        ...


class Pools(Protocol):
    """The pools of an algorithm."""

    @property
    def env_runners(self) -> Worker: ...

    @property
    def learners(self) -> Worker: ...

    def scorers(self) -> Iterable[Worker]: ...


class Waits:
    """The waits of one iteration, which begins when this is made.

    Actors report their work when a part of it is done, so a share is exact over several iterations, and off by the last
    part in a single one.
    """

    def __init__(self, pools: Pools) -> None:
        self._pools = pools
        for worker in (pools.env_runners, pools.learners, *dict.fromkeys(pools.scorers())):
            worker.take_busy_s()
        self._start = time.monotonic()

    def metrics(self) -> dict[str, float]:
        """Returns `wait/<stage>`, a share of 0 to 1 for each stage that has actors."""
        seconds = time.monotonic() - self._start
        stages = {
            "env_runners": [self._pools.env_runners],
            "teachers": list(dict.fromkeys(self._pools.scorers())),
            "learners": [self._pools.learners],
        }
        return {
            f"wait/{name}": max(0.0, 1.0 - sum(w.take_busy_s() for w in workers) / (seconds * num_workers))
            for name, workers in stages.items()
            if (num_workers := sum(w.num_workers for w in workers))
        }
