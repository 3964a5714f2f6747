"""A run without actors, and the three places where it may store: a disk, the same behind a URI, an object store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.core.cluster.object_store import ObjectStore


@pytest.fixture(params=["path", "file", pytest.param("s3", marks=pytest.mark.slow)])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A folder, the same behind a URI, and an object store."""
    if request.param != "s3":
        yield str(tmp_path / "store") if request.param == "path" else f"file://{tmp_path}/store"
        return
    store = ObjectStore()
    yield store.uri
    store.stop()


@pytest.fixture
def config_of(make_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """config_of(storage, keys of checkpointing, evaluation={...}, lr=...) -> six iterations of `Counting`."""
    # the page's plots take most of such a run's time, and have tests of their own
    monkeypatch.setattr("tgpo_ray.driver.run.write_reports", lambda path, *arguments, **names: path.write_text("page"))

    def make(storage: str, evaluation: dict[str, Any] | None = None, lr: float = 1e-3, **checkpointing: Any) -> Any:
        return make_config(
            "GRPO",
            name="counted",
            training={"num_iterations": 6, "lr": lr},
            evaluation=evaluation or {"envs": [], "max_problems": None},
            checkpointing={"storage_path": storage, "every": 2, **checkpointing},
            fault_tolerance={"preflight": False},
        )

    return make
