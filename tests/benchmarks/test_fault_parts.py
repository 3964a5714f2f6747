"""The parts of the fault matrix that need no run: what counts as equal, and the table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import faults


def write_rows(folder: Path, *rows: dict[str, float]) -> Path:
    folder.mkdir()
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def row(iteration: int, **changes: float) -> dict[str, float]:
    return {"iteration": iteration, "loss/total": 0.5, "reward": 0.25, "time/update_s": 1.0, **changes}


def test_times_may_differ_and_nothing_else(tmp_path: Path):
    undisturbed = faults.figures(write_rows(tmp_path / "a", row(1), row(2)))
    same = faults.compared(
        undisturbed, write_rows(tmp_path / "b", row(1), row(2, recoveries=1.0, **{"time/update_s": 9.0}))
    )
    assert (same["equal"], same["recoveries"], same["rows"]) == (True, 1.0, 2)
    other = faults.compared(undisturbed, write_rows(tmp_path / "c", row(1), row(2, reward=0.75)))
    assert not other["equal"] and other["largest_gaps"] == {"reward": 0.5}


def test_a_row_that_is_missing_is_not_equal(tmp_path: Path):
    undisturbed = faults.figures(write_rows(tmp_path / "a", row(1), row(2)))
    assert not faults.compared(undisturbed, write_rows(tmp_path / "b", row(1)))["equal"]
    assert not faults.compared(undisturbed, tmp_path / "nowhere")["equal"]


def test_the_table_says_what_was_not_run(tmp_path: Path):
    def cell(kind: str, stage: str, **found: Any) -> dict[str, Any]:
        base = {"kind": kind, "stage": stage, "killed": True, "error": None, "equal": True, "recoveries": 0.0}
        return base | {"largest_gaps": {}} | found

    page = tmp_path / "page.md"
    page.write_text(f"before\n{faults.BEGIN}\nold\n{faults.END}\nafter\n")
    cells = [
        cell("runner", "sampling"),
        cell("mailbox", "update", recoveries=1.0),
        cell("driver", "sync", equal=False, largest_gaps={"reward": 0.004}),
        cell("raylet", "scoring", error="LearnerError: no room"),
    ]
    faults.write_table(page, [{"cells": cells}])
    lines = page.read_text().splitlines()
    assert lines[0] == "before" and lines[-1] == "after" and "old" not in lines
    table = {line.split(" | ")[0]: line for line in lines}
    assert table["| EnvRunner"] == "| EnvRunner | equal | not run | not run | not run | not run | not run |"
    assert " equal, back 1x " in table["| the learners' mailbox"]
    assert " within 4e-03 " in table["| driver, then `--resume`"]
    assert " ends: LearnerError " in table["| raylet of a second node"]
