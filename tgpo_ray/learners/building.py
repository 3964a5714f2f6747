"""The learners of a resolved configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tgpo_ray.learners.card import CardShare
from tgpo_ray.learners.group import LearnerGroup
from tgpo_ray.learners.learner import LearnerSpec
from tgpo_ray.learners.strategies import StrategyOptions
from tgpo_ray.learners.threads import Cores
from tgpo_ray.learners.train_run import Placement, TrainRun
from tgpo_ray.models import local_model

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig


def learner_spec(config: AlgorithmConfig) -> LearnerSpec:
    """Returns the model, optimizer and precision of each rank."""
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
        # log-probs are those of the distribution that was sampled; a data set has no sampler and no temperature
        temperature=config.env_runners.temperature if config.needs_envs else 1.0,
        sampler_is_old=training.sampler_is_old,
        hf_overrides=model.hf_overrides,
        gradient_checkpointing=learners.gradient_checkpointing,
        dropout=training.dropout,
        layout=learners.layout,  # pyright: ignore[reportArgumentType]  (`resolved` has replaced "auto")
        trust_remote_code=model.trust_remote_code,
        threads=learners.threads_per_learner,
        cores=_cores(config),
        card=card_share(config),
        seed=config.seed,
        lora=None if model.lora is None else model.lora.spec,
        # a method with several groups of learners has one of them score for all
        base_is_reference=config.uses_reference and not config.starts_reference and len(config.learner_groups) == 1,
        sends_adapters=model.lora is not None and config.weight_sync.lora == "adapter",
    )


def card_share(config: AlgorithmConfig) -> CardShare:
    """Returns the part of a card that a rank may take: its fraction, while an engine sleeps that one's too."""
    own = min(1.0, config.learners.num_gpus_per_learner or 1.0)
    lent = config.env_runners.num_gpus_per_env_runner or 0.0
    return CardShare(working=min(1.0, own + lent) if config.env_runners.sleep else own, resting=own)


def _cores(config: AlgorithmConfig) -> Cores | None:
    """Returns the cores of a rank, see `Cores`."""
    if not config.ray.idle_cores or config.learners.num_gpus_per_learner:
        return None
    training = config.training
    if config.needs_envs and training.max_staleness > 0:  # pyright: ignore[reportAttributeAccessIssue]
        return "own"
    streams = config.needs_envs and training.updates_per_iteration == 1  # pyright: ignore[reportAttributeAccessIssue]
    return "idle" if streams else "all"


def build_learners(
    config: AlgorithmConfig, run_folder: str, session: int | None, name: str = "checkpoints", **optimizer: float
) -> LearnerGroup:
    """Returns the learner group. Its checkpoints go to `<run_folder>/<name>` (`-2`, ... in resumed sessions).

    Args:
        session: the number of the start of a run, which deletes old checkpoints itself; None: Ray Train deletes them.
        optimizer: options such as lr and grad_clip of a group that does not train the policy. The options that are not
            given are those of `training`.
    """
    learners = config.learners
    placement = Placement(
        num_learners=learners.num_learners,
        num_cpus=learners.num_cpus_per_learner,
        num_gpus=learners.num_gpus_per_learner or 0.0,
    )
    run = TrainRun(
        storage_path=run_folder,
        # Ray Train resumes a run whose folder exists, so every session has a folder of its own
        name=name if session in (None, 1) else f"{name}-{session}",
        keep_checkpoints=config.checkpointing.keep if session is None else None,
        max_restarts=config.fault_tolerance.max_learner_restarts,
        start_timeout_s=config.fault_tolerance.start_timeout_s,
    )
    assert learners.token_budget is not None  # `resolved` has filled it in
    spec = learner_spec(config)
    options = replace(spec.options, **optimizer)  # pyright: ignore[reportArgumentType]  (names are the caller's)
    return LearnerGroup(replace(spec, options=options), placement, run, learners.token_budget)
