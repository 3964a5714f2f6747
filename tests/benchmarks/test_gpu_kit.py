"""The GPU kit: its parts run on a CPU in tiny sizes, and the page says what has not been run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.gpu.checks import PARTS
from benchmarks.gpu.full import COMMANDS, Command, run_command, write_rows
from benchmarks.gpu.kit import SECONDS, Part, run_parts
from tests.paths import ROOT

BARE, FULL = ROOT / "benchmarks" / "gpu" / "bare.py", ROOT / "benchmarks" / "gpu" / "full.py"
# these are not found, as on a machine that has only torch and transformers
WITHOUT = """
import importlib.machinery, runpy, sys

ABSENT, FINDERS = "ray vllm deepspeed lazy_loader pyarrow pydantic gymnasium".split(), list(sys.meta_path)

class Finder:
    find_distributions = importlib.machinery.PathFinder.find_distributions

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.split(".")[0] not in ABSENT:
            found = (finder.find_spec(name, path, target) for finder in FINDERS)
            return next((spec for spec in found if spec is not None), None)

sys.meta_path[:] = [Finder]
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def run(script: Path, *options: str, before: tuple[str, ...] = ()) -> dict[str, Any]:
    command = [sys.executable, *before, str(script), *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, (done.stdout[-2000:], done.stderr[-4000:])
    return json.loads(Path(options[options.index("--out") + 1]).read_text())


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_bare_parts_run_with_torch_and_transformers_alone(tmp_path: Path) -> None:
    out = str(tmp_path / "bare.json")
    report = run(BARE, "--device", "cpu", "--tiny", "--out", out, before=("-c", WITHOUT))
    assert set(report["parts"]) == {part.name for part in PARTS}
    assert all(part["ok"] for part in report["parts"].values())
    assert {"ray", "pyarrow", "lazy_loader"} <= set(report["absent"])


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_parts_of_a_machine_with_vllm_run(tmp_path: Path) -> None:
    report = run(FULL, "--device", "cpu", "--tiny", "--out", str(tmp_path / "full.json"))
    assert set(report["parts"]) == {command.name for command in COMMANDS}
    assert all(part["ok"] for part in report["parts"].values())
    assert report["parts"]["shared_card"]["report"]["sampler_gap_nats"]


def test_a_part_that_fails_or_comes_too_late_does_not_end_the_others() -> None:
    def fail(device: str, tiny: bool) -> dict[str, Any]:
        raise ValueError(f"{device} is broken")

    parts = [Part("broken", "nothing", fail), Part("works", "something", lambda *_: {"figure": 1})]
    found = run_parts(parts, "cpu", tiny=True, seconds=60.0)["parts"]
    assert found["broken"]["ok"] is False and found["broken"]["error"] == "ValueError: cpu is broken"
    assert found["works"] == {"ok": True, "figure": 1, "seconds": 0.0}
    late = run_parts(parts, "cpu", tiny=True, seconds=-1.0)["parts"]
    assert "left out" in late["works"]["error"] and not late["works"]["ok"]


def test_a_command_is_its_report_or_the_end_of_its_errors(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "rows.jsonl")

    def result(code: str, limit_s: float = 60.0) -> dict[str, Any]:
        command = Command("any", "nothing", ["-c", code, "{out}", "{rows}", "{device}"], None, limit_s)
        assert run_command(command, rows, "cpu", tiny=True) == {"ok": True, "left_out": "it has no tiny size"}
        return run_command(command, rows, "cpu", tiny=False)

    written = "import sys; open(sys.argv[1], 'w').write('[' + str(len(open(sys.argv[2]).readlines())) + ']')"
    assert result(written) == {"ok": True, "report": [200]}
    printed = "import json; print('a line'); print(json.dumps(dict(a=2), indent=1))"
    assert result(printed)["report"] == {"a": 2}
    failed = result("raise SystemExit('broken')")
    assert failed == {"ok": False, "report": None, "error": "broken\n"}
    assert result("import time; time.sleep(60)", limit_s=0.5)["error"] == "not ready within 0 s"


def test_the_limits_of_a_command_keep_it_under_ten_minutes() -> None:
    """The longest part that may still begin at the end of the time takes the rest. The first three begin before."""
    assert sum(command.limit_s for command in COMMANDS[:2]) < SECONDS
    assert SECONDS + max(command.limit_s for command in COMMANDS[3:]) <= 600
