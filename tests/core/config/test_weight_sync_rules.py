"""The way of the weights that `weight_sync.backend` stands for, and the GPUs that it needs."""

from __future__ import annotations

from typing import Any

import pytest

from tgpo_ray.algorithms import GRPOConfig, SFTConfig
from tgpo_ray.config import ConfigError, check_resources


def grpo() -> GRPOConfig:
    return GRPOConfig().environment("tgpo/Math-v0").models(path="org/policy")


def gpus_of(backend: str, runner: float | None = None, learner: float | None = None, tensor_parallel: int = 1) -> Any:
    config = grpo().env_runners(num_gpus_per_env_runner=runner, tensor_parallel_size=tensor_parallel)
    return config.learners(num_gpus_per_learner=learner).weight_sync(backend=backend)


@pytest.mark.parametrize(
    ("config", "gpus", "backend"),
    [
        (gpus_of("auto"), False, "object_store"),
        (gpus_of("auto"), True, "nccl"),
        (gpus_of("auto", tensor_parallel=4), True, "nccl"),
        (gpus_of("auto", runner=0.5, learner=0.5), True, "object_store"),  # they may share a card
        (gpus_of("auto", runner=0.5), True, "object_store"),
        (gpus_of("auto", learner=0.0), True, "object_store"),
        (gpus_of("auto", runner=1.0, tensor_parallel=2), True, "object_store"),
        (gpus_of("object_store"), True, "object_store"),
        (gpus_of("ipc", runner=0.5, learner=0.5), True, "ipc"),
    ],
)
def test_auto_broadcasts_only_between_gpus_of_ones_own(config: Any, gpus: bool, backend: str):
    assert config.problems() == []
    assert config.resolved(gpus=gpus).weight_sync.backend == backend


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            gpus_of("nccl", runner=0.5),
            "weight_sync.backend: nccl needs env_runners.num_gpus_per_env_runner >= 1, got 0.5: every process needs a "
            "GPU of its own; write object_store, which works anywhere, or ipc on shared GPUs",
        ),
        (
            gpus_of("ipc", runner=0.5, learner=1.0),
            "weight_sync.backend: ipc needs learners.num_gpus_per_learner between 0 and 1 and "
            "env_runners.tensor_parallel_size 1, got 1 and 1: a runner shares its GPU with a learner; write "
            "object_store, which works anywhere, or nccl with GPUs of their own",
        ),
    ],
)
def test_gpus_that_do_not_fit_the_way_of_the_weights_are_named(config: Any, message: str):
    assert config.problems() == [message]


def test_a_way_over_gpus_is_refused_on_a_cluster_without_any():
    with pytest.raises(ConfigError) as caught:
        check_resources(gpus_of("nccl"), {"CPU": 8.0})
    assert [problem.split(", got")[0] for problem in caught.value.problems] == [
        "weight_sync.backend: nccl needs env_runners.num_gpus_per_env_runner >= 1",
        "weight_sync.backend: nccl needs learners.num_gpus_per_learner >= 1",
    ]


def test_the_plan_says_how_the_weights_go():
    assert gpus_of("ipc").facts()["weight sync"] == "ipc"
    assert grpo().facts()["weight sync"] == (
        "auto: nccl where runners and learners have GPUs of their own, else object_store"
    )
    assert "weight sync" not in SFTConfig().facts()
