"""bfloat16 end to end on a CPU: vLLM, teacher and learner are one policy, by the preflight's bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tgpo_ray.algorithms import TGPO
from tgpo_ray.checks import check_actors

pytestmark = [pytest.mark.long, pytest.mark.timeout(600)]


@pytest.mark.parametrize(
    ("backend", "learners"),
    [
        ("vllm", {"engine": "deepspeed", "zero_stage": 3, "num_learners": 2}),
        ("transformers", {"engine": "torch"}),
    ],
)
def test_a_run_in_bfloat16_keeps_the_preflights_bounds(
    ray_cluster: Any, make_config: Callable[..., Any], backend: str, learners: dict[str, Any]
):
    teacher = {"dtype": "bfloat16", "backend": backend}
    if backend != "vllm":
        teacher["kv_cache_memory"] = "auto"  # it has none
    config = make_config(
        "TGPO", model={"path": make_config().model.path, "dtype": "bfloat16"}, teacher=teacher, learners=learners
    )
    algorithm = TGPO(config)
    try:
        before = list(check_actors(algorithm))
        metrics = [algorithm.train() for _ in range(3)]
        after = list(check_actors(algorithm))
    finally:
        algorithm.stop()
    for result in (*before, *after):
        assert not result.failed, (result.name, result.measured, result.bound)
    assert {"learner and sampler", "positions of teacher default"} <= {result.name for result in before}
    assert all(0.0 < it["optimizer/grad_norm"] < 1e4 for it in metrics)
