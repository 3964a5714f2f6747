"""Verifiers that the pool must survive. A worker loads this file by path."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any


def echo(value: Any) -> Any:
    return value


def worker_pid() -> int:
    return os.getpid()


def sleep_forever() -> float:
    time.sleep(3600)
    return 1.0


def nap(seconds: float) -> float:
    time.sleep(seconds)
    return 0.25


def spin_forever() -> float:
    while True:
        pass


def hold_the_interpreter_lock() -> bool:
    return sum(range(10**18)) > 0  # one C loop: no Python signal handler ever runs


def exit_at_once() -> float:
    os._exit(7)


def segfault() -> float:
    os.kill(os.getpid(), 11)
    return 1.0


def raise_error() -> float:
    raise ValueError("cannot judge this")


def leave_by_exception() -> float:
    raise SystemExit(3)


def forget_to_return() -> None:
    return None


def allocate_without_end() -> int:
    blocks = []
    while True:
        blocks.append(bytearray(1 << 24))


def talk_on_the_protocol() -> float:
    print("noise " * 100, flush=True)
    return float(sys.stdin.read() == "")


def leave_a_child_and_hang(path: str) -> float:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
    with open(path, "w") as file:
        file.write(str(child.pid))
    time.sleep(3600)
    return 1.0


def note_and_sleep(path: str) -> float:
    with open(path, "w") as file:
        file.write(str(os.getpid()))
    time.sleep(3600)
    return 1.0


def multiply(a: float, b: float, product: float) -> dict[str, Any]:
    return {"score": float(a * b == product), "extracted": str(product), "parts": {"accuracy": float(a * b == product)}}


def hash_of(text: str) -> float:
    return float(hash(text) % 2**40)


def prepared(answer: str) -> bool:
    return [answer] == _PREPARED


def prepare(answer: str) -> None:
    if answer == "break":
        raise ValueError("no such data set")
    time.sleep(1.0)
    _PREPARED[:] = [answer]


_PREPARED: list[str] = []
prepared.before_deadline = prepare  # pyright: ignore[reportFunctionMemberAccess]
