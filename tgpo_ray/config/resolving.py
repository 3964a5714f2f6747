"""What null and `auto` stand for."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from tgpo_ray.config.run_sections import TrainingConfig
from tgpo_ray.config.sections import TeachersConfig, resolve_dtype

if TYPE_CHECKING:
    from tgpo_ray.config.run_config import RunConfig

ConfigT = TypeVar("ConfigT", bound="RunConfig")
SMALLEST_TOKEN_BUDGET = 16384


def resolve(config: ConfigT, *, gpus: bool) -> ConfigT:
    """Returns a copy of `config` with nothing left open, for a cluster with GPUs or without."""
    config = config.model_copy(deep=True)
    config.algorithm = config.algorithm_path
    config.name = config.name or config.algorithm.split(":")[-1].lower()
    config.model.dtype = resolve_dtype(config.model.dtype, gpus=gpus)
    if isinstance(config.training, TrainingConfig):
        config.training.old_logprobs = config.training.resolved_old_logprobs()
    _resolve_runners(config, gpus=gpus)
    _resolve_learners(config, gpus=gpus)
    for _, teacher in teachers_of(config).items():
        teacher.dtype = resolve_dtype(teacher.dtype, gpus=gpus)
        if teacher.num_gpus_per_replica is None:
            here = gpus and teacher.backend != "remote"
            teacher.num_gpus_per_replica = float(teacher.tensor_parallel_size if here else 0)
    if config.reference.num_gpus_per_replica is None:
        config.reference.num_gpus_per_replica = float(config.reference.tensor_parallel_size if gpus else 0)
    return config


def _resolve_runners(config: RunConfig, *, gpus: bool) -> None:
    runners = config.env_runners
    if runners.num_gpus_per_env_runner is None:
        runners.num_gpus_per_env_runner = float(runners.tensor_parallel_size if gpus else 0)


def _resolve_learners(config: RunConfig, *, gpus: bool) -> None:
    learners = config.learners
    if learners.token_budget is None:
        learners.token_budget = max(SMALLEST_TOKEN_BUDGET, longest_episode(config))
    if learners.num_gpus_per_learner is None:
        learners.num_gpus_per_learner = 1.0 if gpus else 0.0
    if learners.threads_per_learner is None:
        learners.threads_per_learner = max(1, int(learners.num_cpus_per_learner))


def teachers_of(config: RunConfig) -> TeachersConfig:
    """Returns the teachers of `config`; none where the algorithm has no such section."""
    return getattr(config, "teachers", TeachersConfig())


def longest_episode(config: RunConfig) -> int:
    """Returns the most tokens that one trained sequence can have: prompt and response, or a row of SFT's data."""
    data = getattr(config, "data", None)
    if data is not None:
        return data.max_tokens
    return config.env_runners.max_prompt_tokens + config.env_runners.max_response_tokens
