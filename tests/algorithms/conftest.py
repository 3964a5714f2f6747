"""Learners that stand for a whole file: a method brings its loss with each batch, so they serve one after the other.

Each test finds them with the first weights and a new optimizer's state.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


class Lent:
    """A group of learners that an algorithm takes for its own and cannot stop."""

    def __init__(self, group: Any) -> None:
        self._group = group

    def __getattr__(self, name: str) -> Any:
        return getattr(self._group, name)

    def stop(self) -> None:
        self._group.forget_logprobs()


@pytest.fixture(scope="module")
def _learners_by_spec(ray_cluster: Any) -> Iterator[dict[str, tuple[Any, str]]]:
    groups: dict[str, tuple[Any, str]] = {}  # with the checkpoint of their start
    yield groups
    for group, _ in groups.values():
        group.stop()


@pytest.fixture
def standing_learners(_learners_by_spec: dict[str, tuple[Any, str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Algorithms of this test train with learners that others have trained before."""
    import tgpo_ray.driver.algorithm as module
    from tgpo_ray.learners import build_learners
    from tgpo_ray.learners.building import learner_spec

    def build(config: Any, run_folder: str, session: int | None) -> Lent:
        key = repr((learner_spec(config), config.learners.token_budget))
        if key not in _learners_by_spec:
            group = build_learners(config, run_folder, session)
            group.wait_until_ready()
            _learners_by_spec[key] = group, group.save("start", {})
        group, start = _learners_by_spec[key]
        group.load(start)
        return Lent(group)

    monkeypatch.setattr(module, "build_learners", build)
