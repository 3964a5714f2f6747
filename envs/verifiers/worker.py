"""The process in which verifier functions run. The pool starts it by file path, so it imports no package of ours.

Frames on the socket at file descriptor 0 are a 4-byte big-endian length and JSON (not pickle, because verifiers read
text of a model). The first frame has the parent's `sys.path`. After that

    {"load": target}                        imports, no answer
    {"call": target, "args", "watchdog_s"}  {"started": true}, then {"value": ...} or {"error": "..."}

The pool's deadline runs from `started`, so that importing sympy does not count. A verifier function's attribute
`before_deadline` is called with the same arguments before, and may for instance load a data set.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import functools
import importlib
import importlib.util
import json
import os
import resource
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG = 1


def send(channel: socket.socket, message: dict[str, Any]) -> None:
    payload = json.dumps(message).encode()
    channel.sendall(len(payload).to_bytes(4, "big") + payload)


def receive(channel: socket.socket) -> dict[str, Any] | None:
    """The next message, or None when the parent has gone."""
    header = _read(channel, 4)
    payload = header and _read(channel, int.from_bytes(header, "big"))
    return json.loads(payload) if payload else None


def _read(channel: socket.socket, count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        chunk = channel.recv(min(count - len(data), 1 << 20))
        if not chunk:
            return None
        data += chunk
    return bytes(data)


@functools.cache
def load(target: str) -> Callable[..., Any]:
    """The function that `module:name` or `/path/file.py:name` names."""
    place, _, name = target.rpartition(":")
    if not place.endswith(".py"):
        module = importlib.import_module(place)
    else:
        path = Path(place)
        # An `__init__.py` is its folder's, whose other files it may import relatively.
        stem = path.parent.name if path.stem == "__init__" else path.stem
        spec = importlib.util.spec_from_file_location(f"verifier_{stem}", place)
        if spec is None or spec.loader is None:
            raise ImportError(f"cannot load {place}")
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module  # dataclasses and pickle look there
        spec.loader.exec_module(module)
    return functools.reduce(getattr, name.split("."), module)  # type: ignore[return-value]


def answer(channel: socket.socket, request: dict[str, Any]) -> None:
    try:
        function = load(request["call"])
        getattr(function, "before_deadline", _nothing)(*request["args"])
        send(channel, {"started": True})
        # A C thread that ends this process even when a verifier holds the interpreter lock and the parent is gone.
        faulthandler.dump_traceback_later(request["watchdog_s"], exit=True)
        reply = {"value": plain(function(*request["args"]))}
        json.dumps(reply)
    except BaseException as failure:  # SystemExit too: a verifier must not decide when its worker ends
        reply = {"error": f"{type(failure).__name__}: {str(failure)[:500]}"}
    finally:
        faulthandler.cancel_dump_traceback_later()
    send(channel, {**reply, "memory_bytes": peak_memory()})


def _nothing(*_: Any) -> None:
    """Stands in for `before_deadline` where a verifier function has none."""


def peak_memory() -> int:
    """The most resident memory that this process has held, in bytes.

    On Linux a process inherits the ru_maxrss of the process that started it, for instance of a trainer with many
    gigabytes. VmHWM starts again with the program.
    """
    if sys.platform == "linux":
        with open("/proc/self/status", encoding="ascii") as status:
            for line in status:
                if line.startswith("VmHWM:"):
                    return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def plain(value: Any) -> Any:
    """`value` for JSON: numpy's scalars become Python's."""
    return value.item() if hasattr(value, "item") and not isinstance(value, dict) else value


def guard(parent: int, memory_bytes: int) -> None:
    """Limits memory, and makes the kernel kill this process when the thread that started it ends."""
    with contextlib.suppress(ValueError, OSError):  # a lower hard limit is already in force
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)


def main() -> None:
    guard(int(sys.argv[1]), int(sys.argv[2]))
    # A private descriptor: a verifier that reads stdin, or passes it to a child, must not touch the protocol.
    channel = socket.socket(fileno=os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    hello = receive(channel)
    if hello is not None:
        sys.path[:] = hello["path"]
    while (request := receive(channel)) is not None:
        if "call" in request:
            answer(channel, request)
        else:
            with contextlib.suppress(BaseException):  # the call that follows reports what is wrong
                load(request["load"])


if __name__ == "__main__":
    main()
