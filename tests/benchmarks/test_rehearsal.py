"""The rehearsal at a small shape: the whole command, with Ray, vLLM, a teacher and learners."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.long
COMMAND = [sys.executable, str(ROOT / "benchmarks" / "rehearsal.py")]
SMALL = ["--groups", "8", "--max-response", "64", "--mean-response", "32", "--rows", "200", "--iterations", "2"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("max_staleness", ["0", "1"])
def test_a_small_rehearsal_has_seconds_memory_and_waits(tmp_path: Path, max_staleness: str) -> None:
    report = rehearsed(tmp_path, "--runners", "1", "--max-staleness", max_staleness, "--profile")["by_runners"]["1"]
    assert len(report["iterations"]) == 2
    for iteration in report["iterations"]:
        assert set(iteration["busy_s"]) == {"env_runners", "teachers", "learners"}
        assert 0 <= iteration["outside_models_s"] < iteration["seconds"]
        assert all(0 < seconds <= iteration["seconds"] for seconds in iteration["busy_s"].values())
        assert {"wait/env_runners", "wait/teachers", "wait/learners"} <= set(iteration)
        assert iteration["driver"]["us_per_episode"] > 0
        assert set(iteration["driver"]["main_thread_shares"]) == {"ours", "ray", "others"}
    assert {"driver", "EnvRunner", "Teacher", "RayTrainWorker", "TrainController", "Mailbox"} <= set(
        report["memory_mib"]
    )
    assert report["bare_engine_mib"]["peak_rss_mib"] > 0


def test_a_missing_file_is_refused_before_anything_starts() -> None:
    done = subprocess.run([*COMMAND, "--path", "nowhere.jsonl"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "--path nowhere.jsonl: no such file: give a jsonl with `problem` and `answer`" in done.stderr


def rehearsed(folder: Path, *options: str) -> dict[str, Any]:
    rows = folder / "rows.jsonl"
    problems = [f"A shop sells {n} pencils at {n % 9} cents each. What do they cost?" for n in range(60)]
    rows.write_text("".join(json.dumps({"problem": text, "answer": "1"}) + "\n" for text in problems))
    out = folder / "report.json"
    command = [*COMMAND, "--path", str(rows), *SMALL, *options, "--out", str(out)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=560)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(out.read_text())
