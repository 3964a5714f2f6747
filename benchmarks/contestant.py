"""Contestants in processes of their own that take turns: one works, the others wait.

    # in the contestant                              # in the benchmark
    for num_steps in turns():                        contestant = Contestant([...command...], environment)
        reply({"seconds": ...})                      contestant.turn(5) -> {"seconds": ...}

The first reply comes unasked, when the contestant is ready.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psutil

QUIET_CORES, QUIET_S, MAX_WAIT_S = 0.25, 1.0, 60.0


class Contestant:
    """A process that answers each line of input by a line of JSON."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = " ".join(command)
        self._process = subprocess.Popen(
            [sys.executable, *command],
            env={**os.environ, **environment},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            self.ready = self._reply()
        except BaseException:
            self._process.kill()
            self._close()
            raise

    def turn(self, num_steps: int) -> dict[str, Any]:
        """Returns the contestant's figures of so many steps. It begins once its processes are quiet."""
        self.wait_until_quiet()
        assert self._process.stdin is not None
        self._process.stdin.write(f"{num_steps}\n")
        self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the contestant ended with code {self._process.wait()}: {self.name}")
        return json.loads(line)

    def wait_until_quiet(self) -> None:
        """Block until the contestant uses hardly any processor time, as after work that it has begun ahead."""
        deadline, before = time.monotonic() + MAX_WAIT_S, self._processor_seconds()
        while time.monotonic() < deadline:
            time.sleep(QUIET_S)
            after = self._processor_seconds()
            if after - before < QUIET_CORES * QUIET_S:
                return
            before = after
        raise RuntimeError(f"still working after {MAX_WAIT_S:.0f} s without a turn: {self.name}")

    def _processor_seconds(self) -> float:
        total = 0.0
        root = psutil.Process(self._process.pid)
        for process in [root, *root.children(recursive=True)]:
            try:
                times = process.cpu_times()
            except psutil.Error:  # it has just ended
                continue
            total += times.user + times.system
        return total

    def stop(self) -> None:
        """End the process: its input ends, so it cleans up."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(120)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._close()

    def _close(self) -> None:
        with self._process:  # closes the pipes and waits
            pass


_replies = sys.stdout


def keep_output_for_replies() -> None:
    """Send what other packages print to standard error, so that standard output has replies alone."""
    global _replies
    _replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)


def reply(figures: Mapping[str, Any]) -> None:
    """Answer the benchmark."""
    print(json.dumps(figures), file=_replies, flush=True)


def turns() -> Iterator[int]:
    """Yields the number of steps of each turn, until the benchmark ends."""
    for line in iter(sys.stdin.readline, ""):
        yield int(line)
