"""A run in a process of its own, whose rows are read while it goes."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tgpo_ray.cluster import is_file, is_uri, join, read_bytes
from tgpo_ray.config import JOB_VARIABLE
from tgpo_ray.driver.run_folder import CONFIG_FILE
from tgpo_ray.driver.saved_checkpoints import RUN_FILE
from tgpo_ray.reporting import read_metrics

MODULE = "tgpo_ray.train"
ROWS = "metrics.jsonl"
POLL_S = 0.5
GRACE_S = 90.0  # for a run to end its actors after Ctrl-C
FOLDER_LINE = "run folder: "
STARTED = (
    "preflight: ",
    "resumed at iteration ",
    "begins at iteration ",
)  # what a run prints when its actors are there
# Of Ray's variables in a worker a new driver gets these alone: the others name the worker and its job.
KEPT = ("RAY_AUTH_", "RAY_TMPDIR", "RAY_TRAIN_")
_LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


class TrialProcess:
    """`python -m tgpo_ray.train` on a configuration file, joined to a cluster.

    It gets SIGTERM where this process dies, upon which it saves a checkpoint and ends its actors.

    Args:
        config: the run's YAML file. Its `reporting.progress` must be on: the output names the run's folder.
        output: the file of what the run prints; a later session is appended.
        options: of the command line, as `--resume auto`.
        working_folder: what relative paths of the configuration start from.
    """

    def __init__(
        self,
        config: Path,
        output: Path,
        options: Sequence[str],
        environment: Mapping[str, str],
        working_folder: Path,
        module: str = MODULE,
    ) -> None:
        self.output = output
        self._from = output.stat().st_size if output.exists() else 0
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(config), *options],
                cwd=working_folder, env=dict(environment), stdout=file, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=_dies_with_parent,
            )  # fmt: skip

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yields the rows of the run's metrics.jsonl, each iteration once, until the process has ended."""
        last = -1.0
        while True:
            ended = self.process.poll() is not None  # before the look, so that the last rows are seen
            for row in self._written():
                if row["iteration"] > last:
                    last = row["iteration"]
                    yield row
            if ended:
                return
            time.sleep(POLL_S)

    def _written(self) -> list[dict[str, Any]]:
        folder = self.folder
        if folder is None:
            return []
        with contextlib.suppress(ValueError, OSError):  # not there yet, or being replaced after the run went back
            path = Path(folder, ROWS)
            if is_uri(folder):
                path = self.output.with_name(ROWS)
                path.write_bytes(read_bytes(join(folder, ROWS)))
            return read_metrics(path)
        return []

    @property
    def folder(self) -> str | None:
        """The run's folder, None before the run has named it."""
        named = [line for line in self.lines() if line.startswith(FOLDER_LINE)]
        return named[-1].removeprefix(FOLDER_LINE) if named else None

    @property
    def has_started(self) -> bool:
        """Whether all of the run's actors are there, or the process has ended."""
        if self.process.poll() is not None:
            return True
        folder = self.folder
        if folder is None:
            return False
        lines = [line for line in self.lines() if line.startswith(STARTED)]
        # a folder that an earlier session has left has these files already
        return bool(lines) or (is_file(join(folder, CONFIG_FILE)) and not is_file(join(folder, RUN_FILE)))

    def lines(self) -> list[str]:
        """Returns what this session has printed, without blank lines."""
        with self.output.open("rb") as file:
            file.seek(self._from)
            text = file.read().decode("utf-8", "replace")
        return [line.strip() for line in text.splitlines() if line.strip()]

    @property
    def reason(self) -> str:
        """Why the run ended, where it failed: the last line of its output."""
        lines = self.lines()
        return lines[-1] if lines else f"the process ended with status {self.process.poll()} and said nothing"

    def stop(self) -> None:
        """End the run and its actors, without another checkpoint."""
        for number in (signal.SIGINT, signal.SIGKILL):
            if self.process.poll() is not None:
                return
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(GRACE_S)


def _dies_with_parent() -> None:
    _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def driver_environment(address: str, runtime_env: Mapping[str, Any]) -> dict[str, str]:
    """Returns the variables for a new driver on the cluster at `address`, from those of a worker.

    Args:
        runtime_env: the worker's, whose working folder and variables the run's actors need too.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RAY_") or name.startswith(KEPT)}
    if kept.get("CUDA_VISIBLE_DEVICES") == "":
        del kept["CUDA_VISIBLE_DEVICES"]  # Ray hides the cards from a worker that has none
    kept["RAY_ADDRESS"] = address
    kept["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    if runtime_env:
        kept[JOB_VARIABLE] = json.dumps({"runtime_env": dict(runtime_env)})
    return kept
