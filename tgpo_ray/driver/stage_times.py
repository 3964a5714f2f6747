"""The seconds of an iteration, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

ItemT = TypeVar("ItemT")


class StageTimes:
    """The seconds of one iteration's stages by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """A block whose seconds are added to the stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def waiting(self, name: str, items: Iterator[ItemT]) -> Iterator[ItemT]:
        """Yields the items. The stage gets the seconds of waiting for them, not those of the loop's body."""
        while True:
            with self.stage(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def metrics(self) -> dict[str, float]:
        """`time/<stage>_s` of every stage that ran."""
        return {f"time/{name}_s": seconds for name, seconds in self.seconds.items()}


def with_rates(metrics: dict[str, float], seconds: float) -> dict[str, float]:
    """Returns an iteration's metrics with its wall time and its tokens a second."""
    rates = {"time/iteration_s": seconds}
    if "tokens/response" in metrics:
        rates["throughput/response_tokens_per_s"] = metrics["tokens/response"] / seconds
    if "tokens/trained" in metrics and "time/update_s" in metrics:
        rates["throughput/trained_tokens_per_s"] = metrics["tokens/trained"] / metrics["time/update_s"]
    return metrics | rates
