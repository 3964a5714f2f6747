"""The tiny twins of the paper's Table 1 and Figure 2, from data to the page, as a user runs them."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.paths import ROOT, YAML

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
TABLE1 = ["sft", "grpo", "rkl", "tgpo_annealing"]


@pytest.fixture
def environment(clean_environment: Mapping[str, str]) -> Iterator[dict[str, str]]:
    # Ray's sockets lie below its folder, and their paths must be short
    with tempfile.TemporaryDirectory(prefix="st", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield {**clean_environment, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": folder}


def study(folder: Path, environment: Mapping[str, str], *arguments: str) -> str:
    command = [sys.executable, "-m", "tgpo_ray.cli", "study", *arguments]
    result = subprocess.run(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=3000
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


def runs_in(folder: Path, name: str) -> list[dict[str, str]]:
    with (folder / "runs" / "studies" / "tiny" / name / "runs.csv").open() as file:
        return list(csv.DictReader(file))


def test_table1_and_fig2_from_data_to_the_page(tmp_path: Path, environment: dict[str, str]) -> None:
    table1, fig2 = (str(YAML / "studies" / "tiny" / f"{name}.yaml") for name in ("table1", "fig2"))
    said = study(tmp_path, environment, table1, "seeds=[0]", "num_cpus=4", "--variants", *TABLE1)
    assert said.count("prepares ") == 4 and said.count("starts ") == len(TABLE1)
    assert "16 left out: overlap" in said and "traces of 48 problems" in said  # the teacher's, of what is not held out
    runs = {run["variant"]: run for run in runs_in(tmp_path, "table1")}
    assert {name for name, run in runs.items() if run["state"] == "finished"} == set(TABLE1)
    assert all(runs[name]["average/mathematics"] for name in TABLE1)
    page = (tmp_path / "runs" / "studies" / "tiny" / "table1" / "report.html").read_text()
    assert "Figure 4: the course of training" in page and "published: average mathematics" in page

    said = study(tmp_path, environment, fig2, "seeds=[0]", "num_cpus=4")
    assert "prepares" not in said  # the first study's data and models
    runs = {run["variant"]: run for run in runs_in(tmp_path, "fig2")}
    assert [run["state"] for run in runs.values()] == ["finished"] * 4
    for run in runs.values():
        rows = (tmp_path / run["folder"] / "metrics.jsonl").read_text().splitlines()
        assert "guidance/log_ratio" in json.loads(rows[-1]), run["variant"]  # the distance, of TGPO too
    page = (tmp_path / "runs" / "studies" / "tiny" / "fig2" / "report.html").read_text()
    assert "Figure 2: a near and a far teacher" in page and "guidance log_ratio" in page
    assert "starts " not in study(tmp_path, environment, fig2, "seeds=[0]", "num_cpus=4")  # nothing is run twice
