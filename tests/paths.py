"""Folders of the repository that tests read. A script that runs in a process of its own finds its own way."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES, YAML = ROOT / "examples", ROOT / "yaml"
DATA = Path(os.environ.get("TGPO_RAY_DATA", ROOT.parent / "shared" / "data"))
"""The evaluation sets, where this machine has them."""
