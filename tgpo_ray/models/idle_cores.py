"""Cores that nobody uses: how many threads an actor takes on a machine without a GPU."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import ray


class IdleCores:
    """One process's share of the cores of its machine: all of them while no other process computes, else its own.

    A process that computes holds a lock on one byte of a file that the user's actors on this machine share. The
    system takes the lock away when the process dies. Two teams of OpenMP threads on the same cores would spin against
    each other, so an actor asks again before each short piece of work.

    Args:
        own: threads while others compute.
        cores: threads while nobody else does; None: `machine_cores`.
        board: the file; None: one for each user of the machine.
    """

    def __init__(self, own: int = 1, cores: int | None = None, board: Path | None = None) -> None:
        self._own = own
        self._all = max(own, machine_cores() if cores is None else cores)
        path = board or Path(tempfile.gettempdir(), f"tgpo-ray-cores-{os.getuid()}")
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        # drawn, because processes of two containers that share the file may have one number
        self._byte = 1 + int.from_bytes(os.urandom(5), "big")

    def take(self) -> int:
        """Returns the number of threads for the next piece of work. The process counts as computing until `rest`."""
        fcntl.lockf(self._file, fcntl.LOCK_EX, 1, self._byte)
        return self._all if self._alone() else self._own

    def rest(self) -> None:
        """The process computes nothing until the next `take`."""
        fcntl.lockf(self._file, fcntl.LOCK_UN, 1, self._byte)

    def _alone(self) -> bool:
        """Whether no other process holds a byte. A lock on all bytes then succeeds, and is given back but for one."""
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        fcntl.lockf(self._file, fcntl.LOCK_UN, self._byte, 0)
        fcntl.lockf(self._file, fcntl.LOCK_UN, 0, self._byte + 1)  # to the end of the file, however long
        return True


def machine_cores() -> int:
    """Returns the cores that this process may use, at most the CPUs that its Ray node offers."""
    cores = len(os.sched_getaffinity(0))
    if not ray.is_initialized():
        return cores
    own = ray.get_runtime_context().get_node_id()
    offered = [node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["NodeID"] == own]
    return max(1, min(cores, *map(int, offered)))
