"""Fixtures of the environment tests."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.envs.sandbox_runs import sandbox_processes
from tgpo_ray.envs import close_shared_pool
from tgpo_ray.envs.sandbox import MECHANISMS, Sandbox, why_not


@pytest.fixture
def write_jsonl(tmp_path: Path) -> Callable[..., str]:
    def write(*rows: dict[str, Any], name: str = "problems.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture(params=MECHANISMS)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    """A sandbox of each mechanism that works here; none of its processes may outlive the test."""
    if why_not(request.param):
        pytest.skip(f"{request.param}: {why_not(request.param)}")
    yield Sandbox(request.param, deadline_s=20.0)
    assert sandbox_processes() == []


@pytest.fixture(scope="module", autouse=True)
def _no_worker_outlives_its_module(no_worker_outlives_its_module: None) -> None:
    """For every file here."""


@pytest.fixture
def no_pool_of_others() -> None:
    """Tests before this one may have left the shared pool of this process, which lives as long as the process does."""
    close_shared_pool()


@pytest.fixture(scope="module")
def importable_reward_functions() -> Iterator[None]:
    """For the whole module: a killed worker's successor starts, and copies the path, when its test may be over."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        yield
