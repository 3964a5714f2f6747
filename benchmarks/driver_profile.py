"""The processor time of the driver: per episode, and whose code spends it."""

from __future__ import annotations

import cProfile
import pstats
import time
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = str(Path(__file__).resolve().parents[1])
OURS = (f"{ROOT}/tgpo_ray", f"{ROOT}/algorithms", f"{ROOT}/envs")


class DriverProfile:
    """The processor time of a block: of this thread, and of the process's other threads, which are Ray's.

    Args:
        profiled: also note the functions in which this thread spends it. This takes time of its own.
    """

    def __init__(self, *, profiled: bool = False) -> None:
        # with the thread's own clock, waiting costs nothing
        self._profile = cProfile.Profile(time.thread_time) if profiled else None

    def __enter__(self) -> DriverProfile:
        self._process, self._thread = time.process_time(), time.thread_time()
        if self._profile is not None:
            self._profile.enable()
        return self

    def __exit__(self, *_: object) -> None:
        if self._profile is not None:
            self._profile.disable()
        self.process_s, self.thread_s = time.process_time() - self._process, time.thread_time() - self._thread

    def report(self, num_episodes: int) -> dict[str, Any]:
        """Returns microseconds an episode; with a profile also the shares of this thread by owner of the code."""
        micro = 1e6 / num_episodes
        figures: dict[str, Any] = {
            "us_per_episode": round(self.process_s * micro),
            "us_per_episode_main_thread": round(self.thread_s * micro),
            "us_per_episode_other_threads": round((self.process_s - self.thread_s) * micro),
        }
        if self._profile is not None:
            figures["main_thread_shares"] = shares_of(pstats.Stats(self._profile))
        return figures


def shares_of(stats: pstats.Stats) -> dict[str, float]:
    """Returns the share of the time in our code, in Ray's, and in others', with built-ins under their callers."""
    seconds: Counter[str] = Counter()
    entries: dict[Any, Any] = stats.stats  # pyright: ignore[reportAttributeAccessIssue] (set in its __init__)
    for function, (_, _, own, _, callers) in entries.items():
        owner = owner_of(function)
        if owner is not None or not callers:
            seconds[owner or "others"] += own
        else:
            for caller, (_, _, part, _) in callers.items():
                seconds[owner_of(caller) or "others"] += part
    total = sum(seconds.values()) or 1.0
    return {owner: round(value / total, 3) for owner, value in sorted(seconds.items())}


def owner_of(function: tuple[str, int, str]) -> str | None:
    """Returns `ours`, `ray` or `others`; None for a built-in, whose caller says it."""
    file, _, name = function
    if file.startswith(OURS):
        return "ours"
    if "/ray/" in file or "ray._raylet" in name:
        return "ray"
    return None if file == "~" else "others"
