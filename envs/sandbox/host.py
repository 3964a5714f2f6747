"""The trainer's side of the sandbox. It starts the sandbox, sends it a job, reads the verdict and waits for its end."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..verdict import CORRECT, ERROR, WRONG, Verdict

LAUNCH = Path(__file__).with_name("launch.py")
MECHANISMS = ("namespaces+seccomp", "landlock+seccomp", "namespaces")
UNSAFE = "unsafe"
START_S = 60.0  # for the start of an interpreter, on a busy machine too
PROBE = {"source": "def f():\n    return 1\n", "entry_point": "f", "setup": "", "run_all": False}


class SandboxUnavailableError(RuntimeError):
    """This machine has no way to confine a candidate. The message names what each way lacks."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """Runs untrusted Python functions against tests that they cannot see.

    Each `run` is an interpreter of its own (`python -I -S`: the standard library alone), behind one of

        namespaces+seccomp  user, pid, network, mount, ipc and uts namespaces, an unprivileged user, a root with
                            Python's library in it, read-only, and a list of allowed system calls
        landlock+seccomp    Landlock rules that allow only reading Python's library, and the same list
        namespaces          without the list, where the kernel has no seccomp filters
        unsafe              only limits on time, memory and output

    Inside, the tests run in one process and the candidate in another, which starts before the tests are read.

    Args:
        mechanism: one of the above; None: the first that works here.
        deadline_s: seconds for loading the code and all tests, the interpreter's start excluded.
        memory_bytes: address space of the candidate.
        output_bytes: size of one returned value, as JSON.

    Raises:
        SandboxUnavailableError: when the mechanism, or every one but `unsafe`, fails here.
        ValueError: for another mechanism or a limit out of range.
    """

    mechanism: str | None = None
    deadline_s: float = 5.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        if self.mechanism not in (None, UNSAFE, *MECHANISMS):
            raise ValueError(f"mechanism must be {', '.join((*MECHANISMS, UNSAFE))} or None, got {self.mechanism!r}")
        if not 0 < self.deadline_s < float("inf"):
            raise ValueError(f"deadline_s must be a positive number of seconds, got {self.deadline_s}")
        if self.memory_bytes < 64 << 20 or self.output_bytes < 1:
            raise ValueError(
                f"memory_bytes must be >= {64 << 20} (Python itself) and output_bytes >= 1, "
                f"got {self.memory_bytes} and {self.output_bytes}"
            )
        object.__setattr__(self, "mechanism", self.mechanism or first_working())  # frozen
        missing = why_not(str(self.mechanism))
        if missing:
            raise SandboxUnavailableError(f"the sandbox {self.mechanism!r} does not work here: {missing}")

    def run(
        self, source: str, entry_point: str, tests: Sequence[Mapping[str, Any]], *, setup: str = "", run_all: bool
    ) -> Verdict:
        """The verdict on `source`; its score is the share of the tests passed, 0.0 when time runs out.

        A test is `{"code": asserts}`, run after `setup` with the candidate's `entry_point` in it and in a module
        `solution`, or `{"args": [...], "kwargs": {...}, "expected": value}`. `calls` names functions of the code to
        call after it. `wrapped` says that the value in a list of one, `expected`, is right too.

        Every failure of the candidate is `wrong`, also a crash, a flood of output and an endless loop
        (`parts["in_time"]` is then 0.0). `error` is a failure of the sandbox, or a test that cannot be run: it needs a
        missing module, or raises before the candidate has answered. `run_all` continues after a failed test.
        """
        job = {"source": source, "entry_point": entry_point, "tests": list(tests), "setup": setup, "run_all": run_all}
        settings = {name: getattr(self, name) for name in ("mechanism", "deadline_s", "memory_bytes", "output_bytes")}
        start = time.monotonic()
        reply = _reply(settings, job)
        return _verdict(reply, time.monotonic() - start, self.deadline_s)


def first_working() -> str:
    """The first mechanism that works here. Raises SandboxUnavailableError, with what each lacks, where none does."""
    missing = {name: why_not(name) for name in MECHANISMS}
    for name, reason in missing.items():
        if not reason:
            return name
    reasons = "; ".join(f"{name}: {reason}" for name, reason in missing.items())
    raise SandboxUnavailableError(f"no sandbox works on this machine ({reasons})")


@functools.cache
def why_not(mechanism: str) -> str:
    """Why `mechanism` does not work for this process, or "". It is tried out once."""
    settings = {"mechanism": mechanism, "deadline_s": 10.0, "memory_bytes": 512 << 20, "output_bytes": 1 << 10}
    reply = _reply(settings, {**PROBE, "tests": [{"args": [], "kwargs": {}, "expected": 1}]})
    if reply.get("passed") == 1:
        return ""
    return reply.get("failure") or reply.get("detail") or "its probe ran out of time"


def _reply(settings: dict[str, Any], job: dict[str, Any]) -> dict[str, Any]:
    """The sandbox's reply to the job, or `failure` where there is none. Its processes have ended by then."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            try:
                process = _start({**settings, "host": os.getpid()}, theirs)
            except OSError as failure:  # no process or memory left
                return {"failure": f"cannot start: {failure}"}
        try:
            with contextlib.suppress(BrokenPipeError):  # it failed at once, and the reply gives the reason
                ours.settimeout(START_S + settings["deadline_s"])
                _send(ours, job)
            return _receive(ours)
        except TimeoutError:
            return {"failure": f"no verdict {START_S:g} s after the deadline of {settings['deadline_s']:g} s"}
        except (EOFError, OSError, ValueError):
            return {"failure": "its process ended without a verdict"}
        finally:
            _end(process)


def _start(settings: dict[str, Any], channel: socket.socket) -> subprocess.Popen[bytes]:
    environment = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "LANG") if name in os.environ}  # no secrets
    # -I and -S: neither Python's environment variables nor installed packages reach the sandbox. A session of its own:
    # `_end` kills the whole group, and Ctrl-C of the trainer does not reach it.
    return subprocess.Popen(
        [sys.executable, "-I", "-S", str(LAUNCH), json.dumps(settings)],
        stdin=channel.fileno(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=environment,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Waits a moment for a process that has sent its verdict and is about to end, then kills its group."""
    try:
        process.wait(timeout=1.0)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _verdict(reply: dict[str, Any], seconds: float, deadline_s: float) -> Verdict:
    if "failure" in reply:
        return Verdict(0.0, ERROR, seconds=seconds, detail=f"the sandbox failed: {reply['failure']}")
    if "timeout" in reply:  # not the outcome `timeout`, which is a failed verifier: the endless loop is the policy's
        detail = f"time limit: the code was killed at its deadline of {deadline_s:g} s"
        return Verdict(0.0, WRONG, seconds=seconds, detail=detail, parts={"in_time": 0.0})
    share = reply["passed"] / reply["total"]
    outcome = reply.get("outcome") or (CORRECT if reply["passed"] == reply["total"] else WRONG)
    detail = reply["detail"] or f"{reply['passed']} of {reply['total']} tests passed"
    return Verdict(share, outcome, seconds=seconds, detail=detail, parts={"in_time": 1.0})


def _send(channel: socket.socket, message: Any) -> None:
    # JSON, and never pickle: the processes on the other side are near code that nobody trusts.
    payload = json.dumps(message).encode()
    channel.sendall(len(payload).to_bytes(4, "big") + payload)


def _receive(channel: socket.socket) -> dict[str, Any]:
    with channel.makefile("rb") as stream:
        header = stream.read(4)
        payload = stream.read(int.from_bytes(header, "big"))
    if len(header) < 4 or not payload:
        raise EOFError
    return json.loads(payload)
