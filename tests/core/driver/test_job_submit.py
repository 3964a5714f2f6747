"""`ray job submit --working-dir .` of a YAML file, on a cluster with a dashboard: one that runs, one that is broken."""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.paths import ROOT
from tgpo_ray.models import make_text_models
from tgpo_ray.reporting.metrics import read_metrics

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

RAY = str(Path(sys.executable).with_name("ray"))


@dataclass(frozen=True)
class Cluster:
    """A head node with a job server; `environment` is what `ray` needs to reach it."""

    dashboard: str
    environment: dict[str, str]
    folder: Path

    def submit(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """`ray job submit --working-dir .` from the checkout, followed to the job's end."""
        return subprocess.run(
            [RAY, "job", "submit", "--address", self.dashboard, "--submission-id", name, "--working-dir", ".", "--",
             "python", "-m", "tgpo_ray.train", *command],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=500.0,
        )  # fmt: skip

    def driver_log(self, name: str) -> list[str]:
        """The lines of a job's own log: `ray job submit` adds a footer of its own."""
        (path,) = self.folder.glob(f"ray/session_*[0-9]/logs/job-driver-{name}.log")
        return [line for line in path.read_text().splitlines() if line.strip()]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def cluster(clean_environment: dict[str, str]) -> Iterator[Cluster]:
    # a short path: Ray's sockets lie below it
    with tempfile.TemporaryDirectory(prefix="tj", dir="/tmp", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        # token authentication is Ray 2.60's default; this cluster's token lies in a home of its own
        environment = clean_environment | {"RAY_AUTH_MODE": "token", "RAY_TMPDIR": name, "HOME": name}
        subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
        dashboard, output = free_port(), folder / "head.txt"
        ports = [f"--port={free_port()}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}",
                 f"--dashboard-agent-listen-port={free_port()}"]  # fmt: skip
        with output.open("w") as file:
            head = subprocess.Popen(
                [RAY, "start", "--head", "--block", *ports, "--num-cpus=4", f"--temp-dir={name}/ray",
                 "--disable-usage-stats"],
                env=environment, stdout=file, stderr=subprocess.STDOUT,
            )  # fmt: skip
        try:
            end = time.monotonic() + 120.0
            while "Ray runtime started" not in output.read_text():
                assert head.poll() is None and time.monotonic() < end, output.read_text()
                time.sleep(0.2)
            yield Cluster(f"http://127.0.0.1:{dashboard}", environment, folder)
        finally:
            head.terminate()  # with --block its processes end with it; `ray stop` would end every cluster here
            head.wait(60)


def test_a_submitted_run_succeeds(cluster: Cluster, data_folder: Path, tmp_path: Path) -> None:
    data = data_folder / "gsm8k_train.jsonl"
    policy, teacher = make_text_models(str(data), tmp_path / "models")
    result = cluster.submit(
        "good", "yaml/gsm8k_tiny.yaml", f"envs.0.kwargs.path={data}", f"model.path={policy}", f"teacher.path={teacher}",
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Job 'good' succeeded" in result.stdout
    folder = cluster.folder / "ray_results" / "gsm8k_tiny"  # in the user's home, and not in Ray's copy of the checkout
    assert f"run folder: {folder}" in cluster.driver_log("good")
    assert cluster.driver_log("good")[-1] == f"done: {folder}"
    rows = read_metrics(folder / "metrics.jsonl")
    assert [row["iteration"] for row in rows] == [1, 2, 3]
    # the policy lacks a third of the teacher's tokens: first_piece gives it one of its own for each of them
    assert all(row["guidance/coverage"] == 1.0 and row["guidance/unmapped"] == 0.0 for row in rows)
    assert all(row["outcome/error"] == row["outcome/timeout"] == 0.0 for row in rows)


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("misspelt", "algorithm: TGPO\nmodel: {path: org/policy}\ntraining: {grop_size: 4}\n",
         "training.grop_size: unknown key; did you mean 'training.group_size'?"),
        ("torn", "algorithm: TGPO\nmodel: {path: org/policy\n", "expected ',' or '}'"),
    ],
)  # fmt: skip
def test_a_broken_file_fails_fast_with_the_reason_as_its_last_line(
    cluster: Cluster, tmp_path: Path, name: str, text: str, reason: str
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    result = cluster.submit(name, str(path))
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"Job '{name}' failed" in result.stdout + result.stderr
    assert reason in cluster.driver_log(name)[-1]
