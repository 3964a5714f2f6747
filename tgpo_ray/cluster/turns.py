"""Runs that share a cluster start one after the other, each when its actors fit."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

NAMESPACE, NAME = "tgpo_ray", "the run that starts"
POLL_S = 1.0
ROUNDING = 1e-6  # sums of fractions are not exact


class _Turn:
    """An actor whose name only one can have. It ends with the process that made it, and the name is free again."""


@contextmanager
def turn_to_start(demand: Mapping[str, float], say: Callable[[str], None] = print) -> Iterator[None]:
    """A block that one process of the cluster is in at a time, entered when `demand` is free.

    Two runs that start at once could each get half of their actors, and wait for each other without end. So a run
    holds the turn until all of its actors are there. Ray must be connected.

    Args:
        demand: the sum over the run's actors, as `{"CPU": 1.5, "GPU": 4.0}`.
        say: takes a sentence where the run has to wait.
    """
    import ray

    turn = _take_turn(say)
    try:
        if wait_until_free(demand, ray.available_resources, ray.cluster_resources):
            say("the cluster has room again")
        yield
    finally:
        ray.kill(turn)


def wait_until_free(
    demand: Mapping[str, float],
    available: Callable[[], Mapping[str, float]],
    total: Callable[[], Mapping[str, float]],
    poll_s: float = POLL_S,
) -> bool:
    """Returns whether it had to wait until `available` holds the demand. It does not wait for what `total` lacks."""
    waited = False
    while not _holds(available(), demand):
        if not _holds(total(), demand):  # the run itself says what is missing, and an autoscaler sees what it asks for
            return waited
        waited = True
        time.sleep(poll_s)
    return waited


def _holds(resources: Mapping[str, float], demand: Mapping[str, float]) -> bool:
    return all(resources.get(kind, 0.0) + ROUNDING >= amount for kind, amount in demand.items())


def _take_turn(say: Callable[[str], None]) -> Any:
    import ray

    # DEFAULT: not within the placement group of a trial, whose one bundle has no CPU
    options: Any = {"num_cpus": 0, "name": NAME, "namespace": NAMESPACE, "scheduling_strategy": "DEFAULT"}
    decorate: Any = ray.remote(**options)
    waits = False
    while True:
        try:
            return decorate(_Turn).remote()
        except ValueError as error:
            if NAME not in str(error):
                raise
        if not waits:
            say("waits until another run of this cluster has started")
        waits = True
        time.sleep(POLL_S)
