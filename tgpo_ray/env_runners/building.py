"""Env runners and their sampling settings, built from a resolved configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tgpo_ray.env_runners.env_spec import all_envs
from tgpo_ray.env_runners.group import EnvRunnerGroup
from tgpo_ray.env_runners.runner_spec import EnvRunnerSpec
from tgpo_ray.models import EngineSpec, Sampling

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig, OnPolicyConfig


def engine_spec(config: AlgorithmConfig) -> EngineSpec:
    """Returns the settings of the runners' engine."""
    model, runners, backend = config.model, config.env_runners, config.weight_sync.backend
    spec = EngineSpec.of_sections(
        model,
        runners,
        max_model_len=model.max_model_len or runners.max_prompt_tokens + runners.max_response_tokens,
        trust_remote_code=model.trust_remote_code,
        seed=config.seed,
        gpus=runners.num_gpus_per_env_runner,
        idle_cores=config.ray.idle_cores,
    )
    adapter = model.lora.spec if model.lora is not None and config.weight_sync.lora == "adapter" else None
    transfer = None if backend == "object_store" else backend
    return replace(spec, weight_transfer=transfer, lora=adapter, sleep=runners.sleep)


def env_runner_spec(config: AlgorithmConfig) -> EnvRunnerSpec:
    """Returns the settings of one runner."""
    runners = config.env_runners
    return EnvRunnerSpec(
        engine=engine_spec(config),
        envs=all_envs(config),
        max_prompt_tokens=runners.max_prompt_tokens,
        overlong_prompts=runners.overlong_prompts,
        num_verifier_threads=runners.verifier_workers,
        gpu=bool(runners.num_gpus_per_env_runner),
        seed_by=runners.seed_by,
    )


def build_env_runners(config: AlgorithmConfig, *, frozen: bool = False) -> EnvRunnerGroup:
    """Returns the pool of runners, whose actors start at once.

    Args:
        frozen: they sample from the weights in the model's folder. Nobody sends them others.
    """
    runners, faults = config.env_runners, config.fault_tolerance
    spec = env_runner_spec(config)
    if frozen:
        engine = replace(spec.engine, weight_transfer=None, lora=None, sleep=False)
        spec = replace(spec, engine=engine, frozen=True)
    return EnvRunnerGroup(
        spec,
        runners.num_env_runners,
        num_cpus=runners.num_cpus_per_env_runner,
        num_gpus=runners.num_gpus_per_env_runner or 0.0,
        max_restarts=faults.max_env_runner_restarts,
        start_timeout_s=faults.start_timeout_s,
        sample_timeout_s=faults.sample_timeout_s,
    )


def training_sampling(config: OnPolicyConfig, *, logprobs: bool = False) -> Sampling:
    """Returns the sampling settings of training. `logprobs` has episodes carry log-probs that no loss asks for."""
    runners = config.env_runners
    return Sampling(
        max_tokens=runners.max_response_tokens,
        temperature=runners.temperature,
        top_p=runners.top_p,
        logprobs=logprobs or config.training.needs_sampler_logprobs,
        stop=tuple(runners.stop),
    )


def evaluation_sampling(config: AlgorithmConfig) -> Sampling:
    """Returns the sampling settings of evaluation."""
    runners = config.env_runners
    return Sampling(runners.max_response_tokens, temperature=config.evaluation.temperature, stop=tuple(runners.stop))


def check_same_envs(config: AlgorithmConfig, env_runners: EnvRunnerGroup | None) -> None:
    """Raises ValueError if a ready group was built for other environments than the configuration's."""
    if env_runners is not None and env_runners.spec.envs != all_envs(config):
        raise ValueError(
            f"env_runners were built for the environments {[env.id for env in env_runners.spec.envs]}, the "
            f"configuration has {[env.id for env in all_envs(config)]} (or other arguments of them): "
            "build the group from this configuration"
        )
