"""Fixtures of the tests of teachers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.core.teachers.served_teacher import ServedTeacher, Start, serving, starting


@pytest.fixture
def server() -> Iterator[ServedTeacher]:
    """A small server whose behaviour a test chooses."""
    with serving() as found:
        yield found


@pytest.fixture
def start_backend(server: ServedTeacher, tmp_path: Path) -> Iterator[Start]:
    """start_backend(**fields of ServerSpec) -> a backend of that server."""
    with starting(server, tmp_path) as found:
        yield found
