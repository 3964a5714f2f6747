"""Small suites that a server in a thread answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tgpo_ray.suites import evaluate_suite, open_suite
from tgpo_ray.suites.suite_config import SuiteConfig

NUM_ROWS = 12
SETS = f"""
evaluation:
  max_problems: {NUM_ROWS}
  envs:
    - {{id: tgpo/Arithmetic-v0, name: small, num_samples: 4, kwargs: {{operation: add, digits: [1, 1]}}}}
    - {{id: tgpo/Arithmetic-v0, name: large, kwargs: {{operation: add, digits: [2, 1]}}}}
means: {{both: [small, large]}}
published: {{Adder: {{source: "A paper, Table 1", scores: {{small: 50.0, large: 25.0}}}}}}
fault_tolerance: {{sample_timeout_s: 20.0}}
"""


def evaluated(suite: SuiteConfig, folder: Path, *names: str) -> Any:
    return evaluate_suite(suite, suite.chosen(list(names)), folder, lambda line: None)


def math_suite(tmp_path: Path, rows: Path, *overrides: str, **kwargs: Any) -> SuiteConfig:
    env = {"id": "tgpo/Math-v0", "name": "sums", "kwargs": {"path": str(rows), **kwargs}}
    path = tmp_path / "math.yaml"
    path.write_text(json.dumps({"evaluation": {"envs": [env]}}))
    return open_suite(str(path), overrides)
