"""Peak memory of a process and all its descendants, by role, measured from a process of its own.

    with MemoryWatch() as watch:
        ...
    watch.peaks      # {"EnvRunner": [{"peak_rss_mib": ..., "peak_private_mib": ...}], "driver": ...}

The role of a Ray actor is its class. `peak_rss` is the kernel's own mark (VmHWM), which misses nothing. It counts
shared pages, such as those of libraries and of Ray's object store, in each process. `peak_private` leaves them out and
is the largest of samples taken every two seconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import psutil

EVERY_S = 2.0
MIB = 2**20
# environment of a process: malloc raises its threshold for mmap as it frees, and then keeps memory
PLAIN_MALLOC = {"MALLOC_MMAP_THRESHOLD_": "65536"}


class MemoryWatch:
    """Watches this process and its descendants for the time of the block."""

    peaks: dict[str, list[dict[str, float]]]

    def __enter__(self) -> MemoryWatch:
        command = [sys.executable, __file__, str(os.getpid())]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def sample(self) -> None:
        """Take a sample now, before processes end."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def __exit__(self, *_: object) -> None:
        out = self._process.communicate("")[0]  # the end of its input ends it
        self.peaks = json.loads(out)


def peak_rss_mib(pid: int | str = "self") -> float:
    """Returns the largest resident set that the process has had."""
    with open(f"/proc/{pid}/status") as file:
        (line,) = [line for line in file if line.startswith("VmHWM")]
    return round(int(line.split()[1]) / 1024, 1)


def private_mib(process: psutil.Process) -> float:
    """Returns the memory that would be free if the process ended."""
    return round(process.memory_full_info().uss / MIB, 1)


def watch(root: int) -> dict[str, list[dict[str, float]]]:
    """Returns the peaks by role, once standard input ends. A line of input is answered by one, after a sample."""
    found: dict[int, dict[str, Any]] = {}
    asked = False
    while True:
        for process, role in _family(psutil.Process(root)):
            with contextlib.suppress(psutil.Error, OSError, ValueError):  # it may end at any moment
                peak = found.setdefault(process.pid, {"peak_private_mib": 0.0})
                peak |= {"role": role, "peak_rss_mib": peak_rss_mib(process.pid)}
                peak["peak_private_mib"] = max(peak["peak_private_mib"], private_mib(process))
        if asked:
            print(flush=True)
        asked = bool(select.select([sys.stdin], [], [], EVERY_S)[0])
        if asked and not sys.stdin.readline():
            break
    roles: dict[str, list[dict[str, float]]] = {}
    for peak in found.values():
        if "role" in peak:
            roles.setdefault(peak.pop("role"), []).append(peak)
    return dict(sorted(roles.items()))


def _family(root: psutil.Process) -> Iterator[tuple[psutil.Process, str]]:
    """Yields the processes with their roles. What an actor has started bears the actor's name with `child`."""
    yield root, "driver"
    roles = {root.pid: "driver"}
    with contextlib.suppress(psutil.Error):
        for process in root.children(recursive=True):  # parents come before their children
            if process.pid == os.getpid():
                continue
            with contextlib.suppress(psutil.Error, IndexError):
                role = _role(process.cmdline(), roles.get(process.ppid(), ""))
                roles[process.pid] = role
                yield process, role


def _role(command: list[str], parent: str) -> str:
    title = command[0]
    if title.startswith("ray::"):
        return title.removeprefix("ray::").split(".")[0].split("(")[0]
    if parent not in ("", "driver", "ray"):
        return parent if parent.endswith(" child") else f"{parent} child"
    return "ray"


if __name__ == "__main__":
    print(json.dumps(watch(int(sys.argv[1]))))
