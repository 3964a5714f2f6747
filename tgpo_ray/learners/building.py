"""From a resolved configuration to its learners."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tgpo_ray.learners.group import LearnerGroup
from tgpo_ray.learners.learner import LearnerSpec
from tgpo_ray.learners.strategies import StrategyOptions
from tgpo_ray.learners.train_run import Placement, TrainRun
from tgpo_ray.models import local_model

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig


def learner_spec(config: AlgorithmConfig) -> LearnerSpec:
    """What each rank trains, and how."""
    learners, training, model = config.learners, config.training, config.model
    options = StrategyOptions(
        strategy=learners.engine,
        dtype=model.dtype,  # pyright: ignore[reportArgumentType]  (`resolved` has replaced "auto")
        zero_stage=learners.zero_stage,
        offload=learners.offload,
        lr=training.lr,
        weight_decay=training.weight_decay,
        betas=training.betas,
        grad_clip=training.grad_clip,
    )
    return LearnerSpec(
        model=local_model(model.path),
        tokenizer=local_model(model.tokenizer or model.path),
        options=options,
        temperature=config.env_runners.temperature if config.needs_envs else 1.0,
        hf_overrides=model.hf_overrides,
        gradient_checkpointing=learners.gradient_checkpointing,
        trust_remote_code=model.trust_remote_code,
        threads=learners.threads_per_learner,
        seed=config.seed,
    )


def build_learners(
    config: AlgorithmConfig, run_folder: str, session: int, name: str = "checkpoints", **optimizer: float
) -> LearnerGroup:
    """The learner group; its checkpoints go to `<run_folder>/<name>` (`-2`, ... in resumed sessions).

    Args:
        optimizer: options of a group that is not the policy's, as lr and grad_clip; the others are `training`'s.
    """
    learners = config.learners
    placement = Placement(
        num_learners=learners.num_learners,
        num_cpus=learners.num_cpus_per_learner,
        num_gpus=learners.num_gpus_per_learner or 0.0,
    )
    run = TrainRun(
        storage_path=run_folder,
        name=name if session == 1 else f"{name}-{session}",
        keep_checkpoints=config.checkpointing.keep,
        max_restarts=config.fault_tolerance.max_learner_restarts,
        start_timeout_s=config.fault_tolerance.start_timeout_s,
    )
    assert learners.token_budget is not None  # `resolved` has filled it in
    spec = learner_spec(config)
    options = replace(spec.options, **optimizer)  # pyright: ignore[reportArgumentType]  (names are the caller's)
    return LearnerGroup(replace(spec, options=options), placement, run, learners.token_budget)
