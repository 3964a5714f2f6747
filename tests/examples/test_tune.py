"""The search of the guidance weight with Ray Tune, killed and started again."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.paths import EXAMPLES, ROOT

pytestmark = [pytest.mark.long, pytest.mark.timeout(2400)]


def iterations(folder: Path) -> dict[str, list[int]]:
    """The iterations of every run, by the name of its folder."""
    found = sorted(folder.glob("runs/*/metrics.jsonl"))
    return {
        path.parent.name: [json.loads(line)["iteration"] for line in path.read_text().splitlines()] for path in found
    }


def test_three_weights_are_searched_and_a_killed_search_goes_on(
    tmp_path: Path, clean_environment: Mapping[str, str]
) -> None:
    folder = tmp_path / "search"
    command: list[Any] = [sys.executable, EXAMPLES / "tune" / "search.py", "--folder", folder]
    with tempfile.TemporaryDirectory(prefix="tn", dir="/tmp", ignore_cleanup_errors=True) as ray_folder:
        environment = {**clean_environment, "PYTHONPATH": str(ROOT), "RAY_TMPDIR": ray_folder}
        with (tmp_path / "first.txt").open("w") as output:
            first = subprocess.Popen(command, env=environment, stdout=output, stderr=subprocess.STDOUT)
            end = time.monotonic() + 900
            while not any(3 in rows for rows in iterations(folder).values()):
                assert first.poll() is None, (tmp_path / "first.txt").read_text()
                assert time.monotonic() < end, (tmp_path / "first.txt").read_text()
                time.sleep(0.5)
            first.kill()
            first.wait()
        second = subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=1500
        )
    assert second.returncode == 0, second.stdout
    found = [line for line in second.stdout.splitlines() if line.startswith("{'guidance.weight': ")]
    assert len(found) == 3 and all("at iteration 6" in line for line in found), second.stdout
    assert {line.partition("}")[0] for line in found} == {f"{{'guidance.weight': {value}" for value in (0.01, 0.1, 1.0)}
    complete = [rows for rows in iterations(folder).values() if rows == list(range(7))]
    assert len(complete) == 3
    outputs = [path.read_text() for path in folder.glob("runs/trials/*/output.txt")]
    assert sum("resumed at iteration" in text for text in outputs) >= 1  # the killed run did not begin anew
