"""The report that `tgpo-ray report` writes of run folders."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tgpo_ray import cli


def write_run(folder: Path, accuracy: float) -> str:
    folder.mkdir()
    rows = [{"iteration": i, "evaluation/accuracy": accuracy * i, "evaluation/num_problems": 500} for i in (0, 1)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text("algorithm: TGPO\nteachers: {default: {path: t}}\n")
    return str(folder)


def test_two_runs_of_one_method_have_two_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["report", write_run(tmp_path / "low", 0.2), write_run(tmp_path / "high", 0.8)]) == 0
    text = Path("report.html").read_text()
    assert "TGPO (high)" in text and "TGPO (low)" in text and "above TGPO." not in text


@pytest.mark.parametrize("port", ["-1", "99999"])
def test_a_port_that_is_none_is_refused(tmp_path: Path, port: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["report", write_run(tmp_path / "run", 0.2), "--watch", "--port", port]) == 2
    assert f"--port: must be 0 to 65535, got {port}" in capsys.readouterr().err
