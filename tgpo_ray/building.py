"""From a resolved configuration to the actors that it describes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.engine import EngineSpec, Sampling
from tgpo_ray.env_registry import located, registered_spec
from tgpo_ray.env_runner import EnvRunnerSpec, EnvSpec
from tgpo_ray.env_runner_group import EnvRunnerGroup
from tgpo_ray.learner import LearnerSpec
from tgpo_ray.learner_engines import EngineOptions
from tgpo_ray.learner_group import LearnerGroup, Placement
from tgpo_ray.teacher import ServerSpec, TeacherSpec
from tgpo_ray.teacher_group import TeacherGroup

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig, EnvRunnersConfig, ReferenceConfig, TeacherConfig

# A teacher reads the same text in its own pieces, and its prefill asks for one token more.
TEACHER_CONTEXT_SLACK = 1.25
# A served teacher's actor gives up before its group would take the actor itself for dead and start it again.
SERVER_SHARE_OF_TIMEOUT = 0.8


def all_envs(config: AlgorithmConfig) -> tuple[EnvSpec, ...]:
    """Training environments, then those for evaluation: `Task.env_index` counts in this order."""
    return tuple(
        EnvSpec(env.id, env_arguments(env.id, env.kwargs, config.env_runners), registered_spec(env.id))
        for env in [*config.envs, *config.evaluation.envs]
    )


def env_arguments(env_id: str, kwargs: Mapping[str, Any], runners: EnvRunnersConfig) -> dict[str, Any]:
    """The environment's arguments as a runner on any node needs them.

    A `path` to a file or folder here is made absolute, and an environment whose constructor has `deadline_s` and
    `verify_workers` gets the runners' settings, unless its own `kwargs` say otherwise.
    """
    settings = {"deadline_s": runners.verify_deadline_s, "verify_workers": runners.num_verifier_workers}
    known = _parameters(env_id)
    arguments = {name: value for name, value in settings.items() if name in known} | dict(kwargs)
    path = arguments.get("path")
    if isinstance(path, str) and Path(path).expanduser().exists():
        arguments["path"] = str(Path(path).expanduser().resolve())
    return arguments


def _parameters(env_id: str) -> Collection[str]:
    """Names of the arguments of an environment's constructor; none where the id is unknown (making it says so)."""
    import gymnasium
    from gymnasium.envs.registration import load_env_creator

    try:
        module, _, name = located(env_id).rpartition(":")
        if module:
            importlib.import_module(module)
        creator = gymnasium.spec(name).entry_point
        creator = load_env_creator(creator) if isinstance(creator, str) else creator
        return inspect.signature(creator).parameters if creator else ()
    except (gymnasium.error.Error, ImportError, ValueError):
        return ()


def engine_spec(config: AlgorithmConfig) -> EngineSpec:
    """The runners' engine."""
    model, runners = config.model, config.env_runners
    return EngineSpec(
        model=model.path,
        tokenizer=model.tokenizer and local_model(model.tokenizer),
        dtype=model.dtype,
        max_model_len=model.max_model_len or runners.max_prompt_tokens + runners.max_response_tokens,
        kv_cache_memory=runners.kv_cache_memory,
        max_num_seqs=runners.max_num_seqs,
        tensor_parallel_size=runners.tensor_parallel_size,
        hf_overrides=model.hf_overrides,
        trust_remote_code=model.trust_remote_code,
        seed=config.seed,
    )


def env_runner_spec(config: AlgorithmConfig) -> EnvRunnerSpec:
    runners = config.env_runners
    return EnvRunnerSpec(
        engine=engine_spec(config),
        envs=all_envs(config),
        max_prompt_tokens=runners.max_prompt_tokens,
        num_verifier_threads=runners.num_verifier_workers,
        gpu=bool(runners.num_gpus_per_env_runner),
    )


def build_env_runners(config: AlgorithmConfig) -> EnvRunnerGroup:
    runners, faults = config.env_runners, config.fault_tolerance
    return EnvRunnerGroup(
        env_runner_spec(config),
        runners.num_env_runners,
        num_cpus=runners.num_cpus_per_env_runner,
        num_gpus=runners.num_gpus_per_env_runner or 0.0,
        max_restarts=faults.max_env_runner_restarts,
        start_timeout_s=faults.start_timeout_s,
        sample_timeout_s=faults.sample_timeout_s,
    )


def teacher_spec(config: Any, teacher: TeacherConfig) -> TeacherSpec:
    """One pool's teacher."""
    runners, faults = config.env_runners, config.fault_tolerance
    context = int((runners.max_prompt_tokens + runners.max_response_tokens) * TEACHER_CONTEXT_SLACK) + 1
    engine = EngineSpec(
        model=local_model(teacher.path),
        tokenizer=teacher.tokenizer and local_model(teacher.tokenizer),
        dtype=teacher.dtype,
        max_model_len=_within_context(teacher, context),
        kv_cache_memory=teacher.kv_cache_memory,
        max_num_seqs=teacher.max_num_seqs,
        tensor_parallel_size=teacher.tensor_parallel_size,
        hf_overrides=teacher.hf_overrides,
        trust_remote_code=config.model.trust_remote_code,
        seed=config.seed,
    )
    return TeacherSpec(
        engine=engine,
        policy_tokenizer=local_model(config.model.tokenizer or config.model.path),
        prompt=teacher.prompt,
        unmapped=config.guidance.unmapped,
        vocabulary=teacher.vocabulary,
        map_end_of_sequence=teacher.map_end_of_sequence,
        gpu=bool(teacher.num_gpus_per_replica),
        cache_memory=teacher.cache_memory or 0,
        backend=teacher.backend,
        token_budget=teacher.token_budget,
        server=ServerSpec(
            url=teacher.url or "",
            served_model=teacher.served_model,
            api_key_env=teacher.api_key_env,
            timeout_s=SERVER_SHARE_OF_TIMEOUT * faults.teacher_timeout_s,
        ),
    )


def build_teachers(config: Any) -> dict[str, TeacherGroup]:
    """The teacher pools of a configuration that has a `teachers` section, by name."""
    return {name: _scorers(config, teacher_spec(config, teacher), teacher) for name, teacher in config.teachers.items()}


def reference_spec(config: AlgorithmConfig) -> TeacherSpec:
    """The frozen reference as a scorer: it reads the policy's own ids, so no vocabulary is mapped."""
    model, reference, runners = config.model, config.reference, config.env_runners
    tokenizer = local_model(model.tokenizer or model.path)
    engine = EngineSpec(
        model=local_model(reference.path or model.path),
        tokenizer=tokenizer,
        dtype=model.dtype,
        # its prefill asks for one token more
        max_model_len=runners.max_prompt_tokens + runners.max_response_tokens + 1,
        kv_cache_memory=reference.kv_cache_memory,
        max_num_seqs=reference.max_num_seqs,
        tensor_parallel_size=reference.tensor_parallel_size,
        hf_overrides=model.hf_overrides,
        trust_remote_code=model.trust_remote_code,
        seed=config.seed,
    )
    return TeacherSpec(
        engine=engine,
        policy_tokenizer=tokenizer,
        gpu=bool(reference.num_gpus_per_replica),
        backend=reference.backend,
        token_budget=reference.token_budget,
    )


def build_reference(config: AlgorithmConfig) -> TeacherGroup:
    """The pool of the frozen reference; its guidance goes under the scorer's name `reference`, with want `logprob`."""
    return _scorers(config, reference_spec(config), config.reference)


def _scorers(config: AlgorithmConfig, spec: TeacherSpec, section: TeacherConfig | ReferenceConfig) -> TeacherGroup:
    """A pool of such scorers, placed as its section says."""
    faults = config.fault_tolerance
    return TeacherGroup(
        spec,
        section.num_replicas,
        num_cpus=section.num_cpus_per_replica,
        num_gpus=section.num_gpus_per_replica or 0.0,
        timeout_s=faults.teacher_timeout_s,
        max_unguided_share=faults.max_unguided_share,
        start_timeout_s=faults.start_timeout_s,
    )


def _within_context(teacher: Any, wanted: int) -> int:
    """`wanted`, or the teacher's own context where that is shorter."""
    from tgpo_ray.config.model_files import context_length, model_facts

    limit = context_length(model_facts(teacher.path, teacher.hf_overrides))
    return wanted if limit is None else min(wanted, limit)


def learner_spec(config: AlgorithmConfig) -> LearnerSpec:
    """What each rank trains, and how."""
    learners, training, model = config.learners, config.training, config.model
    options = EngineOptions(
        engine=learners.engine,
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
    config: AlgorithmConfig, run_folder: str, session: int, name: str = "checkpoints", **optimizer: Any
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
        storage_path=run_folder,
        name=name if session == 1 else f"{name}-{session}",
        keep_checkpoints=config.checkpointing.keep,
        max_restarts=config.fault_tolerance.max_learner_restarts,
        start_timeout_s=config.fault_tolerance.start_timeout_s,
    )
    assert learners.token_budget is not None  # `resolved` has filled it in
    spec = learner_spec(config)
    return LearnerGroup(replace(spec, options=replace(spec.options, **optimizer)), placement, learners.token_budget)


def training_sampling(config: AlgorithmConfig) -> Sampling:
    runners = config.env_runners
    return Sampling(
        max_tokens=runners.max_response_tokens,
        temperature=runners.temperature,
        top_p=runners.top_p,
        logprobs=config.training.needs_sampler_logprobs,
        stop=tuple(runners.stop),
    )


def evaluation_sampling(config: AlgorithmConfig) -> Sampling:
    runners = config.env_runners
    return Sampling(runners.max_response_tokens, temperature=config.evaluation.temperature, stop=tuple(runners.stop))


def local_model(path: str) -> str:
    """An absolute path where `path` is a folder here: actors run in other folders than the driver."""
    folder = Path(path).expanduser()
    return str(folder.resolve()) if folder.is_dir() else path
