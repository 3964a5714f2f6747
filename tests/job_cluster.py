"""A head node with a job server, for tests of `ray job submit`: its ports, its folder and its home are its own."""

from __future__ import annotations

import shlex
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

RAY = str(Path(sys.executable).with_name("ray"))
START = "ray start --head"
START_S = 300.0  # seconds; it is 15 where the machine has nothing else to do


@dataclass(frozen=True)
class JobCluster:
    """A running head. `environment` is what `ray` needs to reach it, the address apart; its HOME is `folder`."""

    dashboard: str
    environment: Mapping[str, str]
    folder: Path

    def submit(self, name: str, *command: str, cwd: Path, timeout_s: float = 500.0) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir .` from `cwd`, followed to the job's end."""
        words = [RAY, "job", "submit", "--address", self.dashboard, "--submission-id", name, "--working-dir", "."]
        return subprocess.run(
            [*words, "--", *command],
            cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=timeout_s,
        )  # fmt: skip

    def driver_log(self, name: str) -> list[str]:
        """The lines of a job's own log: `ray job submit` adds a footer of its own."""
        (path,) = self.folder.glob(f"ray/session_*[0-9]/logs/job-driver-{name}.log")
        return [line for line in path.read_text().splitlines() if line.strip()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def short_home(environment: Mapping[str, str]) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder for a cluster, and `environment` with it as home: Ray's token is in the home.

    Its path is short, because Ray's sockets are below it.
    """
    with tempfile.TemporaryDirectory(prefix="tj", dir="/tmp", ignore_cleanup_errors=True) as name:
        yield Path(name), {**environment, "RAY_TMPDIR": name, "HOME": name}


@contextmanager
def started_head(folder: Path, environment: Mapping[str, str], start: str = START) -> Iterator[JobCluster]:
    """The cluster that the command `start` starts, with ports of its own and below `folder`, ended with the context."""
    dashboard, output = free_port(), folder / "head.txt"
    ports = [f"--port={free_port()}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}",
             f"--dashboard-agent-listen-port={free_port()}"]  # fmt: skip
    words = [RAY, *shlex.split(start)[1:], "--block", *ports, "--num-cpus=4", f"--temp-dir={folder}/ray"]
    with output.open("w") as file:
        head = subprocess.Popen([*words, "--disable-usage-stats"], env=environment, stdout=file, stderr=file)
    try:
        end = time.monotonic() + START_S
        while "Ray runtime started" not in output.read_text():
            assert head.poll() is None and time.monotonic() < end, output.read_text()
            time.sleep(0.2)
        yield JobCluster(f"http://127.0.0.1:{dashboard}", environment, folder)
    finally:
        head.terminate()  # with --block its processes end with it; `ray stop` would end every cluster here
        head.wait(60)
