"""Learner and engine are one policy for every architecture that is called proven, whatever changes the weights."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.models import Row, table
from benchmarks.tiny_architectures import ARCHITECTURES
from tgpo_ray.models.architectures import PROVEN, REFUSED

ROOT = Path(__file__).resolve().parents[2]


def test_no_architecture_is_proven_and_refused_and_each_has_been_tried() -> None:
    assert not set(PROVEN) & set(REFUSED)
    assert set(PROVEN) <= set(ARCHITECTURES)


def test_the_page_has_a_row_for_each_proven_architecture() -> None:
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    rows = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `") and "proven |" in line}
    proven = {name for name, line in rows.items() if line.endswith("| proven |")}
    assert proven == set(PROVEN)


def test_a_row_is_proven_only_if_the_change_could_have_shown_a_weight_that_stayed() -> None:
    row = Row("llama", "A", "B", before=1e-6, after=1e-6, change=1.0, export="equal")
    assert row.proven
    for name, value in {"before": 0.1, "after": 0.1, "change": 0.0, "export": "differs", "error": "E"}.items():
        assert not Row(**{**vars(row), name: value}).proven
    assert "not proven" in table([Row(**{**vars(row), "after": 0.8})])


@pytest.mark.long
@pytest.mark.timeout(2400)
def test_learner_and_engine_agree_before_and_after_a_change_of_all_weights(tmp_path: Path) -> None:
    file = tmp_path / "rows.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "models.py"), "--json", str(file), *PROVEN]
    subprocess.run(command, check=True, cwd=ROOT, timeout=2300)
    rows = json.loads(file.read_text())
    assert [row["model_type"] for row in rows if row["proven"]] == list(PROVEN), rows
