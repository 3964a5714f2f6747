"""The actors of a configuration on a cluster."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tgpo_ray.config import AlgorithmConfig, ConfigError, OnPolicyConfig, ReferenceConfig, TeacherConfig
from tgpo_ray.costs.actors import Actor, Batch, Learners, Runners, Scorers
from tgpo_ray.costs.cards import Cluster
from tgpo_ray.costs.memory import TrainingState, checkpoint_size
from tgpo_ray.costs.shapes import ModelShape, shape_of

Shapes = Mapping[str, dict[str, Any]]
MEAN_SHARE = 1 / 3  # of the longest prompt and response, where the means are not given


def batch_of(config: OnPolicyConfig, mean_prompt: float | None, mean_response: float | None) -> Batch:
    """Returns an iteration's batch. Means that are not given are a third of the longest.

    Raises:
        ConfigError: a mean is not positive, or above the longest.
    """
    runners, training = config.env_runners, config.training
    means = {}
    for name, mean, longest in (
        ("prompt", mean_prompt, runners.max_prompt_tokens),
        ("response", mean_response, runners.max_response_tokens),
    ):
        means[name] = max(1.0, MEAN_SHARE * longest) if mean is None else mean
        if not 0 < means[name] <= longest:
            key = f"env_runners.max_{name}_tokens"
            raise ConfigError([f"--mean-{name}: must be above 0 and at most {key} = {longest}, got {mean:g}"])
    return Batch(
        groups=training.groups_per_iteration,
        group_size=training.group_size,
        prompt=means["prompt"],
        response=means["response"],
        longest_response=runners.max_response_tokens,
        longest=config.longest_episode(),
        updates=training.updates_per_iteration,
    )


def actors_of(config: AlgorithmConfig, cluster: Cluster, batch: Batch, shapes: Shapes | None = None) -> list[Actor]:
    """Returns learners, runners and scorers of a configuration that is resolved for the cluster."""
    assert isinstance(config, OnPolicyConfig)
    policy = _policy_shape(config, shapes)
    runners, number_bytes = config.env_runners, 4 if config.model.dtype == "float32" else 2
    common = {"cluster": cluster, "batch": batch}
    actors: list[Actor] = [
        _learners(config, cluster, batch, policy),
        Runners(
            kind="env runner",
            keys="env_runners.num_env_runners",
            count=runners.num_env_runners,
            cards=_cards(runners.num_gpus_per_env_runner, runners.num_cpus_per_env_runner, cluster, "env_runners"),
            shape=policy,
            number_bytes=number_bytes,
            tensor_parallel_size=runners.tensor_parallel_size,
            kv_cache=runners.kv_cache_memory,
            max_num_seqs=runners.max_num_seqs,
            takes_adapters=config.weight_sync.lora == "adapter",
            **common,
        ),
    ]
    weights = {env.teacher: 0.0 for env in config.envs}
    for env in config.envs:
        weights[env.teacher] += env.weight / sum(each.weight for each in config.envs)
    for name, pool in config.teacher_pools().items():
        if pool.backend != "remote":
            shape = shape_of(pool.path, pool.hf_overrides, shapes)
            share = weights.get(name, 0.0)
            keys = f"teachers.{name}"
            actors.append(_scorers(f"teacher {name}", keys, pool, pool.dtype, shape, share, **common))
    if config.starts_reference:
        reference = config.reference
        shape = shape_of(reference.path or config.model.path, config.model.hf_overrides, shapes)
        actors.append(_scorers("reference", "reference", reference, config.model.dtype, shape, 1.0, **common))
    return actors


def checkpoint_bytes(config: AlgorithmConfig) -> float | None:
    """Returns the bytes of one checkpoint, or None where nothing here says what the model looks like."""
    try:
        shape = _policy_shape(config)
    except ConfigError:
        return None
    return len(config.learner_groups) * checkpoint_size(shape, _state(config))


def _policy_shape(config: AlgorithmConfig, shapes: Shapes | None = None) -> ModelShape:
    """The policy's shape, with the adapters of `model.lora`."""
    lora = None if config.model.lora is None else config.model.lora.spec
    return shape_of(config.model.path, config.model.hf_overrides, shapes, lora)


def _state(config: AlgorithmConfig) -> TrainingState:
    learners = config.learners
    return TrainingState(
        learners.num_learners,
        learners.engine,
        learners.zero_stage,
        learners.offload,
        half=config.model.dtype == "bfloat16",
        frozen=config.model.lora is not None,
    )


def _learners(config: OnPolicyConfig, cluster: Cluster, batch: Batch, shape: Any) -> Learners:
    learners, groups = config.learners, len(config.learner_groups)
    base_is_reference = config.uses_reference and not config.starts_reference
    updates = config.training.updates_per_iteration
    # the first update's ratios are one, so it needs no old log-probs
    old_logprobs = (updates - 1) / updates if config.training.resolved_old_logprobs() == "learner" else 0.0
    cards = _cards(learners.num_gpus_per_learner, learners.num_cpus_per_learner, cluster, "learners")
    assert learners.token_budget is not None  # `resolved` has filled it in
    return Learners(
        kind="learner",
        keys="learners.num_learners",
        count=learners.num_learners,
        cards=groups * cards,
        cluster=cluster,
        batch=batch,
        shape=shape,
        state=_state(config),
        token_budget=learners.token_budget,
        checkpointing=learners.gradient_checkpointing,
        extra_passes=old_logprobs + base_is_reference,
        with_entropy=config.training.entropy_weight > 0,
        num_groups=groups,
        lent=config.env_runners.num_gpus_per_env_runner or 0.0 if config.env_runners.sleep else 0.0,
    )


def _scorers(
    kind: str, keys: str, pool: TeacherConfig | ReferenceConfig, dtype: str, shape: Any, share: float, **common: Any
) -> Scorers:
    return Scorers(
        kind=kind,
        keys=f"{keys}.num_replicas",
        count=pool.num_replicas,
        cards=_cards(pool.num_gpus_per_replica, pool.num_cpus_per_replica, common["cluster"], keys),
        shape=shape,
        number_bytes=4 if dtype == "float32" else 2,
        tensor_parallel_size=pool.tensor_parallel_size,
        kv_cache=pool.kv_cache_memory if pool.backend == "vllm" else None,
        max_num_seqs=pool.max_num_seqs,
        share_of_groups=share,
        **common,
    )


def _cards(gpus: float | None, cpus: float, cluster: Cluster, keys: str) -> float:
    """Returns the cards of one actor: its GPUs, on a cluster of CPUs its cores."""
    cards = cpus if cluster.card.device == "cpu" else gpus or 0.0
    if cards <= 0:
        raise ConfigError([f"{keys}: has no part of a card (num_gpus_per_* is 0), and --cluster only counts cards"])
    return cards
