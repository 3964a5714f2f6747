"""Learners that stand for a whole file: a method brings its loss with each batch, so they serve one after the other."""

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
def _learners_by_spec(ray_cluster: Any) -> Iterator[dict[str, Any]]:
    groups: dict[str, Any] = {}
    yield groups
    for group in groups.values():
        group.stop()


@pytest.fixture
def standing_learners(_learners_by_spec: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Algorithms of this test train with learners that others have trained before; their weights only have to move."""
    import tgpo_ray.driver.algorithm as module
    from tgpo_ray.learners import build_learners
    from tgpo_ray.learners.building import learner_spec

    def build(config: Any, run_folder: str, session: int | None) -> Lent:
        key = repr((learner_spec(config), config.learners.token_budget))
        if key not in _learners_by_spec:
            _learners_by_spec[key] = build_learners(config, run_folder, session)
        return Lent(_learners_by_spec[key])

    monkeypatch.setattr(module, "build_learners", build)
