"""Shared by the tests of the sandbox: one call to run a candidate, and the processes that it must not leave."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from tgpo_ray.envs import Verdict
from tgpo_ray.envs.sandbox import Sandbox

needs_linux = pytest.mark.skipif(sys.platform != "linux", reason="the sandbox is made of Linux")


def run(sandbox: Sandbox, source: str, *tests: Any, setup: str = "", run_all: bool = False) -> Verdict:
    rows = [{"code": test} if isinstance(test, str) else test for test in tests or ("assert f() == 1",)]
    return sandbox.run(textwrap.dedent(source), "f", rows, setup=setup, run_all=run_all)


def case(expected: Any, *args: Any) -> dict[str, Any]:
    return {"args": list(args), "kwargs": {}, "expected": expected}


def sandbox_processes(host: int | None = None) -> list[str]:
    """What is left of the sandboxes that `host`, or this process, started: all bear their supervisor's command line."""
    listed = subprocess.run(["ps", "-eo", "stat,args"], capture_output=True, text=True, check=True).stdout
    mark = f'"host": {host or os.getpid()}}}'
    return [line for line in listed.splitlines() if "launch.py" in line and mark in line]
