from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.suites.answering_server import AnsweringServer, answering_server
from tests.core.suites.served_suites import NUM_ROWS, SETS


@pytest.fixture
def server() -> Iterator[AnsweringServer]:
    with answering_server() as running:
        yield running


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    path = tmp_path / "sums.yaml"
    path.write_text(SETS)
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"problem": f"{i} + 1", "answer": str(i + 1)}) + "\n" for i in range(NUM_ROWS)))
    return path
