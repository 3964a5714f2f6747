"""Teachers and a reference inside whole iterations: each environment has its own, and what they break is counted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray

from tests.conftest import ENV, TEST_KWARGS, TRAIN_KWARGS
from tests.core.teachers.misbehaving_teachers import GarbageTeacher, LightTeacher, spec_of
from tgpo_ray.algorithms import GRPO, TGPO
from tgpo_ray.checks import check_actors
from tgpo_ray.teachers import TeacherGroup

pytestmark = pytest.mark.slow
ONE_UPDATE = {"num_iterations": 2, "groups_per_iteration": 6, "group_size": 2, "lr": 1e-3, "updates_per_iteration": 1}
TWO_ENVS = [{"id": ENV, "kwargs": TRAIN_KWARGS}, {"id": ENV, "kwargs": TEST_KWARGS, "teacher": "second"}]


@pytest.fixture
def two_teachers(make_config: Callable[..., Any], tiny_models: dict[str, str]) -> Callable[..., Any]:
    """A configuration of two environments with a teacher each, for the suite's own runners."""

    def make(**sections: Any) -> Any:
        teacher = {"path": tiny_models["teacher"], "kv_cache_memory": "64MiB", "num_cpus_per_replica": 0.5}
        config = make_config("TGPO", training=ONE_UPDATE, evaluation={"envs": [], "max_problems": None}, **sections)
        return config.teachers("second", **teacher).from_dict({**config.to_dict(), "envs": TWO_ENVS})

    return make


@pytest.fixture
def pools(ray_cluster: Any, tmp_path: Path) -> Iterator[dict[str, TeacherGroup]]:
    """`default` answers, `second` answers garbage."""
    kinds = {"default": LightTeacher, "second": GarbageTeacher}
    options: dict[str, Any] = {"num_cpus": 0.1, "max_unguided_share": 1.0}
    found = {name: TeacherGroup(spec_of(tmp_path), teacher_class=kind, **options) for name, kind in kinds.items()}
    for group in found.values():
        group.wait_until_ready()
    yield found
    for group in found.values():
        group.stop()


def free_cpus() -> float:
    return ray.available_resources()["CPU"]


def test_garbage_is_counted_and_never_reaches_the_loss(two_teachers, pools, env_runners):
    algorithm = TGPO(two_teachers(guidance={"weight": 0.1}), env_runners=env_runners, teachers=pools)
    try:
        metrics = algorithm.train()
        garbage = [group for group in algorithm.sampled if group.task.env_index == 1]
        sound = [group for group in algorithm.sampled if group.task.env_index == 0]
        assert garbage and sound
        assert not any(group.guidance for group in garbage)
        assert all(list(group.guidance) == ["teacher"] for group in sound)
        tokens = [sum(group.num_policy_tokens for group in part) for part in (sound, garbage)]
        assert metrics["guidance/coverage"] == pytest.approx(tokens[0] / sum(tokens))
        assert metrics["guidance/unguided_groups"] == pytest.approx(len(garbage) / 6)
        assert metrics["guidance/rejected_answers"] == 2 * len(garbage)  # both tries
        assert metrics["guidance/retries"] == len(garbage)
        assert np.isfinite([*metrics.values()]).all()
        assert metrics["guidance/nll"] > 0.0
    finally:
        algorithm.stop()


def test_two_teachers_end_and_return_their_resources_once_the_weight_is_zero(two_teachers, env_runners, capsys):
    algorithm = TGPO(two_teachers(guidance={"weight": 0.1, "decay": 0.1}), env_runners=env_runners)
    try:
        free = free_cpus()
        assert algorithm.train()["guidance/coverage"] == pytest.approx(1.0)
        assert {group.task.env_index for group in algorithm.sampled} == {0, 1}
        metrics = algorithm.train()
        assert free_cpus() == pytest.approx(free + 1.0)  # half a CPU each
        assert "guidance/retries" not in metrics
        assert "w = 0 after iteration 1; the teachers' resources return" in capsys.readouterr().out
    finally:
        algorithm.stop()


def test_a_frozen_reference_is_one_more_scorer_and_agrees_with_the_policy_at_first(make_config, env_runners):
    reference = {"kv_cache_memory": "64MiB", "num_cpus_per_replica": 0.5}
    config = make_config("GRPO", training=ONE_UPDATE | {"kl_weight": 0.1}, reference=reference)
    algorithm = GRPO(config, env_runners=env_runners)
    try:
        results = {result.name: result for result in check_actors(algorithm)}
        assert [name for name, result in results.items() if result.failed] == []
        assert results["reference and policy"].status == "ok"
        first, second = algorithm.train(), algorithm.train()
        assert all(list(group.guidance) == ["reference"] for group in algorithm.sampled)
        assert 0.0 <= first["policy/reference_kl"] < 1e-5 < second["policy/reference_kl"]
    finally:
        algorithm.stop()
