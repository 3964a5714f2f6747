"""One worker process and the socket to it, used by a single owner thread."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from ..verdict import ERROR, TIMEOUT, Verdict

WORKER = Path(__file__).with_name("worker.py")
START_TIMEOUT_S = 120.0  # for start and imports, on a busy machine too
WATCHDOG_GRACE_S = 5.0  # seconds by which a worker without a parent outlives its deadline


class WorkerProcess:
    """A started worker. Where `spent` is true, it must be killed and may be replaced.

    `killed` says that SIGKILL has ended it within a request, which this process did not send.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.spent = self.killed = False
        self._memory_bytes = memory_bytes
        self._socket, theirs = socket.socketpair()
        with theirs:
            # By file path (-P: its folder stays off sys.path): importing the package would cost every start 0.2 s.
            # Its own session: Ctrl-C does not reach it, and killing the group kills a verifier's children too.
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(WORKER), str(os.getpid()), str(memory_bytes)],
                stdin=theirs.fileno(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                # One hash seed everywhere: iteration over a set of strings has the same order in any process.
                env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONHASHSEED": "0"},
            )
        with contextlib.suppress(OSError):  # it died at once: the first call reports how
            self._until = time.monotonic() + START_TIMEOUT_S
            self._send({"path": sys.path})

    def preload(self, target: str) -> None:
        """Makes the worker import `target` before anybody waits for it."""
        with contextlib.suppress(OSError):
            self._send({"load": target})

    def call(self, target: str, args: tuple[Any, ...], deadline_s: float) -> Verdict:
        """The verdict on one request; `timeout` or `error` where the worker gave none."""
        started: float | None = None
        try:
            self._until = time.monotonic() + START_TIMEOUT_S
            self._send({"call": target, "args": args, "watchdog_s": deadline_s + WATCHDOG_GRACE_S})
            reply = self._receive()
            if "started" in reply:
                started = time.monotonic()
                self._until = started + deadline_s
                reply = self._receive()
        except TimeoutError:
            self.spent = True
            if started is not None:
                detail = f"the verifier was killed at its deadline of {deadline_s:g} s"
                return Verdict(0.0, TIMEOUT, seconds=time.monotonic() - started, detail=detail)
            return Verdict(0.0, ERROR, detail=f"{target} was not ready within {START_TIMEOUT_S:g} s")
        except (OSError, EOFError, ValueError):  # ValueError: the frame was not JSON
            self.spent, ending = True, self._ending()
            self.killed = self._process.returncode == -signal.SIGKILL
            return Verdict(0.0, ERROR, seconds=_since(started), detail=f"the verifier's process {ending}")
        return self._verdict(reply, _since(started))

    def interrupt(self) -> None:
        """Kills the worker and its children, from any thread. The owner's call ends with `error` and reaps it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def kill(self) -> None:
        """Kills the worker and its children, and reaps it."""
        self._socket.close()
        self.interrupt()
        self._process.wait()

    def _verdict(self, reply: dict[str, Any], seconds: float | None) -> Verdict:
        self.spent = reply["memory_bytes"] > self._memory_bytes / 2
        if "error" in reply:
            return Verdict(0.0, ERROR, seconds=seconds, detail=reply["error"])
        try:
            return Verdict.from_value(reply["value"], seconds=seconds)
        except (TypeError, ValueError, KeyError) as failure:
            return Verdict.of_failure(failure, seconds=seconds)

    def _ending(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = self._process.wait(timeout=1.0)
            return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return "closed its connection"

    def _send(self, message: dict[str, Any]) -> None:
        payload = json.dumps(message).encode()
        self._socket.settimeout(self._seconds_left())
        self._socket.sendall(len(payload).to_bytes(4, "big") + payload)

    def _receive(self) -> dict[str, Any]:
        return json.loads(self._read(int.from_bytes(self._read(4), "big")))

    def _read(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            self._socket.settimeout(self._seconds_left())
            chunk = self._socket.recv(min(count - len(data), 1 << 20))
            if not chunk:
                raise EOFError
            data += chunk
        return bytes(data)

    def _seconds_left(self) -> float:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left


def _since(started: float | None) -> float | None:
    return None if started is None else time.monotonic() - started
