"""From a resolved configuration to the pools that score: teachers, and the frozen reference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

from tgpo_ray.models import EngineSpec, context_length, local_model, model_facts
from tgpo_ray.teachers.group import TeacherGroup
from tgpo_ray.teachers.spec import ServerSpec, TeacherSpec

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig, ReferenceConfig, TeacherConfig, TeachersConfig

Unmapped = Literal["mask", "first_piece"]

# A teacher reads the same text in its own pieces, and its prefill asks for one token more.
TEACHER_CONTEXT_SLACK = 1.25
# A served teacher's actor gives up before its group would take the actor itself for dead and start it again.
SERVER_SHARE_OF_TIMEOUT = 0.8


def teacher_spec(config: AlgorithmConfig, teacher: TeacherConfig, *, unmapped: Unmapped) -> TeacherSpec:
    """One pool's teacher. `unmapped`: what becomes of a teacher's token that the policy lacks."""
    runners, faults = config.env_runners, config.fault_tolerance
    context = int((runners.max_prompt_tokens + runners.max_response_tokens) * TEACHER_CONTEXT_SLACK) + 1
    engine = EngineSpec.of_sections(
        teacher,
        teacher,
        max_model_len=_within_context(teacher, context),
        trust_remote_code=config.model.trust_remote_code,
        seed=config.seed,
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
    """The teacher pools of a resolved configuration, by name."""
    return {
        name: _pool(config, teacher_spec(config, teacher, unmapped=unmapped), teacher)
        for name, teacher in teachers.items()
    }


def reference_spec(config: AlgorithmConfig) -> TeacherSpec:
    """The frozen reference as a scorer: it reads the policy's own ids, so no vocabulary is mapped."""
    reference, runners = config.reference, config.env_runners
    tokenizer = config.model.tokenizer or config.model.path
    model = config.model.model_copy(update={"path": reference.path or config.model.path, "tokenizer": tokenizer})
    engine = EngineSpec.of_sections(
        model,
        reference,
        # its prefill asks for one token more
        max_model_len=runners.max_prompt_tokens + runners.max_response_tokens + 1,
        trust_remote_code=model.trust_remote_code,
        seed=config.seed,
    )
    return TeacherSpec(
        engine=engine,
        policy_tokenizer=local_model(tokenizer),
        gpu=bool(reference.num_gpus_per_replica),
        backend=reference.backend,
        token_budget=reference.token_budget,
    )


def build_reference(config: AlgorithmConfig) -> TeacherGroup:
    """The pool of the frozen reference; its guidance goes under the scorer's name `reference`, with want `logprob`."""
    return _pool(config, reference_spec(config), config.reference)


def _pool(config: AlgorithmConfig, spec: TeacherSpec, section: TeacherConfig | ReferenceConfig) -> TeacherGroup:
    """A pool of such scorers with the replicas and resources that its section says."""
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
    """`wanted`, or the teacher's own context where that is shorter."""
    limit = context_length(model_facts(teacher.path, teacher.hf_overrides))
    return wanted if limit is None else min(wanted, limit)
