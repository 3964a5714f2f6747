"""Where the seconds of an iteration go, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

ItemT = TypeVar("ItemT")


class StageTimes:
    """The seconds of one iteration's stages by name, each counted from 0."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the seconds of the block to the stage."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - start

    def waiting(self, name: str, items: Iterator[ItemT]) -> Iterator[ItemT]:
        """Yield the items; the stage gets the seconds of waiting for each, not those of what is done with it."""
        while True:
            with self.stage(name):
                try:
                    item = next(items)
                except StopIteration:
                    return
            yield item

    def metrics(self) -> dict[str, float]:
        """`time/<stage>_s` of every stage that there was."""
        return {f"time/{name}_s": seconds for name, seconds in self.seconds.items()}
