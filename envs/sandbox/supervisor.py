"""The sandbox's first process. It builds the walls, starts the judge behind them, and kills it at the deadline.

    supervisor (outside the pid namespace)  ->  judge (first process inside; holds the tests)  ->  candidate

In a pid namespace everything dies with the judge. Without one the candidate can neither start a process nor undo the
signal that the kernel sends it when the judge dies. The supervisor is its reaper and waits for its end.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import sys
import time
from typing import Any, NoReturn

from . import judge, landlock, namespaces, syscalls, wire

CHANNEL = 0  # a socket to the host
JUDGE_MEMORY = 1 << 30
LIBRARIES = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/etc/ld.so.cache")
REAP_S = 5.0


def main(arguments: str) -> None:
    """Sends one verdict on the channel, whatever happens, and leaves no process behind."""
    settings = json.loads(arguments)
    die_with_parent()
    if os.getppid() != settings["host"]:  # it died before the line above
        return
    libraries = [*sys.path, f"{sys.base_prefix}/lib", *LIBRARIES]
    settings["readable"] = [path for path in dict.fromkeys(libraries) if os.path.isabs(path) and os.path.exists(path)]
    try:
        protect(settings)
    except (OSError, StopIteration) as failure:
        return wire.send(CHANNEL, failed(failure))
    # Blocked before the fork: a judge that ends at once must not slip past `sigtimedwait`.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    child = os.fork()
    if child == 0:
        begin_judge(settings)
    finished = signal.sigtimedwait({signal.SIGCHLD}, settings["deadline_s"]) is not None
    if not finished:
        os.kill(child, signal.SIGKILL)
    end_children()
    if not finished:
        wire.send(CHANNEL, {"timeout": True})


def protect(settings: dict[str, Any]) -> None:
    """The walls around all three processes. The judge and the candidate each add their own."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if settings["mechanism"].startswith("namespaces"):
        namespaces.enter(settings["readable"])
        die_with_parent()  # the change of user cleared it
    else:
        os.chdir("/")
        syscalls.prctl("PR_SET_CHILD_SUBREAPER", syscalls.PR_SET_CHILD_SUBREAPER, 1)


def begin_judge(settings: dict[str, Any]) -> NoReturn:
    """The judge's process: its walls, then the tests."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})
        die_with_parent()
        memory = max(JUDGE_MEMORY, settings["memory_bytes"])
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        if settings["mechanism"] != "unsafe":
            syscalls.drop_capabilities()
        if settings["mechanism"].startswith("landlock"):  # the candidate's own is nested in it and cannot reach up
            landlock.restrict(settings["readable"])
        # The candidate has the same user, and must not trace the process that holds the tests.
        syscalls.prctl("PR_SET_DUMPABLE", syscalls.PR_SET_DUMPABLE, 0)
        verdict = judge.run(CHANNEL, settings)
    except BaseException as failure:
        verdict = failed(failure)
    with contextlib.suppress(OSError):  # the host has gone
        wire.send(CHANNEL, verdict)
    os._exit(0)


def end_children() -> None:
    """Waits until no process of this run is left. Kills what a candidate leaves, which only `unsafe` lets it do."""
    until = time.monotonic() + REAP_S
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < until:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
            with contextlib.suppress(OSError), open(f"/proc/self/task/{os.getpid()}/children") as children:
                for pid in map(int, children.read().split()):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)


def die_with_parent() -> None:
    syscalls.prctl("PR_SET_PDEATHSIG", syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)


def failed(failure: BaseException) -> dict[str, Any]:
    return {"failure": getattr(failure, "strerror", None) or f"{type(failure).__name__}: {failure}"}
