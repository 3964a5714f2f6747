"""The JSON report of a benchmark, on the terminal and in a file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path


def print_report(report: Mapping[str, object], out: Path | None) -> None:
    """Prints the report, and writes it to `out` too, if there is one."""
    text = json.dumps(report, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n")
