"""One Teacher actor as the driver knows it: starting, alive or lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayTaskError

from tgpo_ray.cluster import ACTOR_ERRORS, root_cause

MAX_FAILED_STARTS = 3  # in a row: a GPU's memory may take a moment to be free after a process died


class Replica:
    """An actor that can be started again without waiting for it. `start` gives a new handle."""

    def __init__(self, name: str, start: Callable[[], Any]) -> None:
        self.name = name
        self._start = start
        self._failed_starts = 0
        self._begin()

    def _begin(self) -> None:
        self.handle = self._start()
        self.alive = False
        self.heard = self._started = time.monotonic()  # `heard`: when it last answered
        self._ready = self.handle.__ray_ready__.remote()

    def restart(self) -> None:
        """End the process and start another; returns at once."""
        ray.kill(self.handle)
        self._begin()

    def check_start(self, timeout_s: float) -> str | None:
        """Notice that it is alive by now. Returns why not, once its start has failed."""
        if ray.wait([self._ready], timeout=0)[0]:
            try:
                ray.get(self._ready)
            except (*ACTOR_ERRORS, RayTaskError) as error:
                return root_cause(error)
            self.alive, self._failed_starts, self.heard = True, 0, time.monotonic()
        elif time.monotonic() - self._started > timeout_s:
            return f"not ready within {timeout_s:.0f} s (fault_tolerance.start_timeout_s), see `ray status`"
        return None

    def try_again(self) -> bool:
        """Start it once more after a failed start; False where that has failed too often."""
        self._failed_starts += 1
        if self._failed_starts < MAX_FAILED_STARTS:
            self.restart()
            return True
        ray.kill(self.handle)
        return False

    @property
    def start_ref(self) -> Any:
        """Resolves when it is alive, or fails."""
        return self._ready
