"""Writes the section about GPUs of docs/performance.md, from what benchmarks/gpu has measured or would.

python docs/generate_gpu.py            writes it
python docs/generate_gpu.py --check    exits 1 if the page is not up to date
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from generated import with_part, write_or_check

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.gpu.checks import PARTS  # noqa: E402
from benchmarks.gpu.full import COMMANDS  # noqa: E402
from benchmarks.gpu.kit import RESULTS  # noqa: E402

PAGE = Path(__file__).with_name("performance.md")
SHOWN_BESIDE = ("ok", "seconds", "report", "error", "left_out")  # of a part's figures, those with a column of their own


def section(script: str, name: str, parts: Sequence[tuple[str, str]]) -> str:
    """Returns the table of one command's parts, which are (name, what it checks)."""
    file = RESULTS / f"{name}.json"
    report: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    lines = [f"```console\n$ python benchmarks/gpu/{script}\n```", "", _machine(report), ""]
    lines += ["| part | checks | holds | figures | seconds |", "|---|---|---|---|---|"]
    for part, checks in parts:
        found = report.get("parts", {}).get(part)
        cells = ("not run", "", "") if found is None else (_holds(found), _figures(found), f"{found['seconds']:g}")
        lines.append("| " + " | ".join((f"`{part}`", checks, *cells)).replace("|  |", "| |") + " |")
    return "\n".join(lines)


def _machine(report: Mapping[str, Any]) -> str:
    if not report:
        return "**Not run**: no GPU was available."
    return "Run with " + ", ".join(f"{name} {value}" for name, value in report["machine"].items()) + "."


def _holds(found: Mapping[str, Any]) -> str:
    return (
        "yes" if found["ok"] else f"no: {found.get('error', 'see the figures')}".replace("\n", " ").replace("|", "\\|")
    )


def _figures(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {json.dumps(value)}" for name, value in found.items() if name not in SHOWN_BESIDE)


def main() -> None:
    script = Path(__file__).name
    bare = section("bare.py", "bare", [(it.name, it.checks) for it in PARTS])
    full = section("full.py", "full", [(it.name, it.checks) for it in COMMANDS])
    write_or_check({PAGE: with_part(PAGE, script, f"{bare}\n\n{full}")}, script)


if __name__ == "__main__":
    main()
