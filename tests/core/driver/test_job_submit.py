"""`ray job submit --working-dir .` of a YAML file, on a cluster with a dashboard: one that runs, one that is broken."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.job_cluster import RAY, JobCluster, short_home, started_head
from tests.paths import ROOT
from tgpo_ray.models import make_text_models
from tgpo_ray.reporting.metrics import read_metrics

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def cluster(clean_environment: dict[str, str]) -> Iterator[JobCluster]:
    with short_home(clean_environment) as (folder, environment):
        # where a token is there already, Ray 2.60 asks for it; without the mode no client would send it
        environment["RAY_AUTH_MODE"] = "token"
        subprocess.run([RAY, "get-auth-token", "--generate"], env=environment, check=True, capture_output=True)
        with started_head(folder, environment) as running:
            yield running


def submit(cluster: JobCluster, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A run from the checkout, of which nothing is installed."""
    return cluster.submit(name, "python", "-m", "tgpo_ray.train", *arguments, cwd=ROOT)


def test_a_submitted_run_succeeds(cluster: JobCluster, data_folder: Path, tmp_path: Path) -> None:
    data = data_folder / "gsm8k_train.jsonl"
    policy, teacher = make_text_models(str(data), tmp_path / "models")
    result = submit(
        cluster, "good", "yaml/gsm8k_tiny.yaml", f"envs.0.kwargs.path={data}", f"model.path={policy}",
        f"teacher.path={teacher}",
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
    cluster: JobCluster, tmp_path: Path, name: str, text: str, reason: str
) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    result = submit(cluster, name, str(path))
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"Job '{name}' failed" in result.stdout + result.stderr
    assert reason in cluster.driver_log(name)[-1]
