"""One Teacher actor as the driver sees it: starting, alive or lost."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ray
from ray.exceptions import RayTaskError

from tgpo_ray.cluster import ACTOR_ERRORS, root_cause

MAX_FAILED_STARTS = 3  # in a row: after a process died, its GPU memory may stay taken for a moment


class Replica:
    """An actor that restarts without blocking the driver. `start` returns a new handle."""

    def __init__(self, name: str, start: Callable[[], Any]) -> None:
        self.name = name
        self._start = start
        self._failed_starts = 0
        self._begin()

    def _begin(self) -> None:
        self.handle = self._start()
        self.alive = False
        self.heard = self._started = time.monotonic()  # `heard`: time of its last answer
        self._ready = self.handle.__ray_ready__.remote()  # resolves after the constructor has loaded the model

    def restart(self) -> None:
        """End the process and start another, without waiting for it."""
        ray.kill(self.handle)
        self._begin()

    def check_start(self, timeout_s: float) -> str | None:
        """Returns why the start failed, or None while it goes on and once the actor is alive."""
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
        """Returns whether the actor starts once more after a failed start. After too many failures it does not."""
        self._failed_starts += 1
        if self._failed_starts < MAX_FAILED_STARTS:
            self.restart()
            return True
        ray.kill(self.handle)
        return False

    @property
    def start_ref(self) -> Any:
        """A reference that resolves when the actor is alive, or fails."""
        return self._ready
