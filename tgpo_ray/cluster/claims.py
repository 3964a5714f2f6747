"""A claim on a run's folder, so that two processes never write into one. It needs no clock and no lock of a disk."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from tgpo_ray.cluster.storage import delete, join, names_in, read_text, write_text

CLAIMS = "claims"  # the folder of claims in a run's folder
BEAT_S = 10.0  # a claim's file is written again after this time
SILENT_S = 45.0  # the claim of another machine that is not written again in this time is a dead run's
TRIES = 4


class ClaimedError(RuntimeError):
    """A living process holds the folder."""


@dataclass(frozen=True)
class Holder:
    """A process, as another process can find it again."""

    host: str
    machine: str  # the start of its kernel and its process namespace; empty where the system does not tell
    pid: int
    started: str  # by the kernel's count, which tells a process from a later one of the same number

    @staticmethod
    def here() -> Holder:
        """Returns this process."""
        return Holder(socket.gethostname(), _machine(), os.getpid(), _started(os.getpid()))

    def lives(self) -> bool | None:
        """Returns whether the process lives, None where that cannot be known: it is on another machine."""
        if not self.machine or self.machine != _machine():
            return None
        return _started(self.pid) == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def _machine() -> str:
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    return ""


def _started(pid: int) -> str:
    """Returns when a living process started, in ticks since the machine did; empty for one that is gone."""
    with contextlib.suppress(OSError):
        # after the name, which stands in brackets and may hold blanks: the state, and as the 20th the start
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if state in "ZX" else fields[18]
    return ""


class Claim:
    """The right to write into a folder, from construction to `release`.

    Each contender writes a file of its own and then looks for others. Of two that come at the same time at least one
    sees the other, because listings are consistent on disks and object stores alike. One that sees another living
    contender takes its file back. A file of a process that has died is deleted: on the same machine the kernel says
    so, and a file from elsewhere is watched for `SILENT_S`, because its holder writes it again every `BEAT_S`.

    Args:
        folder: the run's folder or URI. `<folder>/claims` is made in it.
        say: takes a sentence where the claim waits for a sign of life.

    Raises:
        ClaimedError: another living process holds the folder.
    """

    def __init__(self, folder: str, say: Callable[[str], None] = print) -> None:
        self.folder, self._say = folder, say
        self._own = f"{uuid.uuid4().hex}.json"
        self._beats, self._holder = 0, Holder.here()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="claim", daemon=True)
        holder = self._contend()
        for _ in range(TRIES - 1):
            if holder is None:
                break
            time.sleep(random.uniform(0.05, 0.2))  # both of two contenders may have seen each other
            holder = self._contend()
        if holder is None:
            self._thread.start()
            return
        raise ClaimedError(f"{folder} is held by {holder}, which writes into it")

    def _contend(self) -> Holder | None:
        """Returns None where the folder is this process's, else the living holder. Then there is no file of ours."""
        self._write()
        try:
            for name in self._others():
                holder = self._living(name)
                if holder is not None:
                    delete(join(self.folder, CLAIMS, self._own))
                    return holder
                delete(join(self.folder, CLAIMS, name))
        except BaseException:
            delete(join(self.folder, CLAIMS, self._own))
            raise
        return None

    def _others(self) -> list[str]:
        names = names_in(join(self.folder, CLAIMS))
        return [name for name in names if name.endswith(".json") and name != self._own]

    def _living(self, name: str) -> Holder | None:
        """Returns the holder of a claim, or None if it is gone or dead."""
        first = self._read(name)
        if first is None:
            return None
        fields = json.loads(first)
        holder = Holder(**fields["holder"])
        lives = holder.lives()
        if lives is None:
            self._say(f"{self.folder} has a claim of {holder}: waiting {SILENT_S:.0f} s for a sign of life")
            end = time.monotonic() + SILENT_S
            while time.monotonic() < end and self._read(name) == first:
                time.sleep(min(1.0, SILENT_S / 10))
                self._write()  # a contender that waits is alive
            found = self._read(name)
            lives = found is not None and found != first
        if not lives:
            self._say(f"{self.folder}: the claim of {holder} is a dead run's")
        return holder if lives else None

    def _read(self, name: str) -> str | None:
        try:
            return read_text(join(self.folder, CLAIMS, name))
        except FileNotFoundError:
            return None

    def _write(self) -> None:
        self._beats += 1
        text = json.dumps({"holder": asdict(self._holder), "beats": self._beats})
        write_text(join(self.folder, CLAIMS, self._own), text)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            with contextlib.suppress(OSError):  # a full disk or a store that does not answer: the next one may come
                if self.is_held():
                    self._write()

    def is_held(self) -> bool:
        """Returns whether the claim is still there. Another process takes that of one that stood still for long."""
        return self._read(self._own) is not None

    def release(self) -> None:
        """Give the folder free. A second call is safe."""
        if not self._ended.is_set():
            self._ended.set()
            if self._thread.is_alive():
                self._thread.join(BEAT_S)
            delete(join(self.folder, CLAIMS, self._own))
            with contextlib.suppress(OSError):
                if not names_in(join(self.folder, CLAIMS)):
                    delete(join(self.folder, CLAIMS))
