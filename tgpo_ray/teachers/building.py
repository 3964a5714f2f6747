"""The pools that score, built from a resolved configuration: teachers and the frozen reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from tgpo_ray.models import EngineSpec, context_length, local_model, model_facts
from tgpo_ray.teachers.group import TeacherGroup
from tgpo_ray.teachers.spec import ServerSpec, TeacherSpec

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig, ReferenceConfig, TeacherConfig, TeachersConfig

Unmapped = Literal["mask", "first_piece"]

# A teacher's tokenizer may need more tokens for the same text.
TEACHER_CONTEXT_SLACK = 1.25
# The actor of a served teacher must give up first. Otherwise its group would take it for dead and restart it.
SERVER_SHARE_OF_TIMEOUT = 0.8


def teacher_spec(config: AlgorithmConfig, teacher: TeacherConfig, *, unmapped: Unmapped) -> TeacherSpec:
    """Returns the settings of one pool's teacher.

    Args:
        unmapped: treatment of a teacher's token that the policy lacks.
    """
    runners, faults = config.env_runners, config.fault_tolerance
    context = (
        int((runners.max_prompt_tokens + runners.max_response_tokens) * TEACHER_CONTEXT_SLACK) + 1
    )  # a prefill samples one token
    engine = EngineSpec.of_sections(
        teacher,
        teacher,
        max_model_len=_within_context(teacher, context),
        trust_remote_code=config.model.trust_remote_code,
        seed=config.seed,
        gpus=teacher.num_gpus_per_replica,
        idle_cores=config.ray.idle_cores,
    )
    return TeacherSpec(
        engine=engine,
        policy_tokenizer=local_model(config.model.tokenizer or config.model.path),
        prompt=teacher.prompt,
        unmapped=unmapped,
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


def build_teachers(
    config: AlgorithmConfig, teachers: TeachersConfig | Mapping[str, TeacherConfig], *, unmapped: Unmapped
) -> dict[str, TeacherGroup]:
    """Returns the teacher pools of a resolved configuration, by name."""
    return {
        name: _pool(config, teacher_spec(config, teacher, unmapped=unmapped), teacher)
        for name, teacher in teachers.items()
    }


def reference_spec(config: AlgorithmConfig) -> TeacherSpec:
    """Returns the settings of the frozen reference. It reads the policy's own ids, so no vocabulary is mapped."""
    reference, runners = config.reference, config.env_runners
    tokenizer = config.model.tokenizer or config.model.path
    model = config.model.model_copy(update={"path": reference.path or config.model.path, "tokenizer": tokenizer})
    engine = EngineSpec.of_sections(
        model,
        reference,
        # a prefill samples one token
        max_model_len=runners.max_prompt_tokens + runners.max_response_tokens + 1,
        trust_remote_code=model.trust_remote_code,
        seed=config.seed,
        gpus=reference.num_gpus_per_replica,
        idle_cores=config.ray.idle_cores,
    )
    return TeacherSpec(
        engine=engine,
        policy_tokenizer=local_model(tokenizer),
        gpu=bool(reference.num_gpus_per_replica),
        backend=reference.backend,
        token_budget=reference.token_budget,
    )


def build_reference(config: AlgorithmConfig) -> TeacherGroup:
    """Returns the pool of the frozen reference. It scores as `reference`, with the want `logprob`."""
    return _pool(config, reference_spec(config), config.reference)


def _pool(config: AlgorithmConfig, spec: TeacherSpec, section: TeacherConfig | ReferenceConfig) -> TeacherGroup:
    """Returns a pool of these scorers, with the replicas and resources of its section."""
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


def _within_context(teacher: TeacherConfig, wanted: int) -> int:
    """Returns `wanted`, or the teacher's own context length where that is shorter."""
    limit = context_length(model_facts(teacher.path, teacher.hf_overrides))
    return wanted if limit is None else min(wanted, limit)
