"""The cost model against this machine: rates fitted to two models, seconds and memory predicted for a third."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tgpo_ray.costs import parse_cluster

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_seconds_within_a_factor_of_1_3_and_memory_within_15_percent(tmp_path: Path):
    out, card = tmp_path / "report.json", tmp_path / "card.yaml"
    script = str(ROOT / "benchmarks" / "cost_model.py")
    subprocess.run([sys.executable, script, "--quick", "--out", str(out), "--card", str(card)], cwd=ROOT, check=True)
    report = json.loads(out.read_text())
    others = [row for row in report["seconds"] if not row["fitted"]]
    assert {row["stage"] for row in others} == {"rollout", "teacher", "learner"}
    assert [row for row in others if not 1 / 1.3 < row["ratio"] < 1.3] == []
    assert [row for row in report["memory"] if abs(row["ratio"] - 1) > 0.15] == []
    assert {row["checkpointing"] for row in report["memory"]} == {True, False}
    assert parse_cluster(str(card)).card.efficiency.learner.compute > 0
