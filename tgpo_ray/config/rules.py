"""The rules between keys, checked before Ray starts. Each yields a line for every way in which it is broken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tgpo_ray.config.resolving import longest_episode, teachers_of
from tgpo_ray.config.run_sections import TrainingConfig
from tgpo_ray.config.teacher_rules import teacher_backends_fit
from tgpo_ray.config.values import format_bytes
from tgpo_ray.models import context_length, folder_problems, kv_bytes_per_token, model_facts

if TYPE_CHECKING:
    from tgpo_ray.config.run_config import RunConfig
    from tgpo_ray.config.sections import ModelConfig, TeacherConfig


def broken_rules(config: RunConfig, *, files: bool) -> list[str]:
    """Returns a line for each broken rule. `files`: look at model folders too."""
    rules = (*RULES, *FILE_RULES) if files else RULES
    return [problem for rule in rules for problem in rule(config)]


def paths_are_given(config: RunConfig) -> Iterator[str]:
    if not config.model.path:
        yield "model.path: required (folder or Hugging Face id of the policy)"
    for name, teacher in teachers_of(config).items():
        if not teacher.path:
            yield f"teachers.{name}.path: required (folder or Hugging Face id of the teacher)"
    data = getattr(config, "data", None)
    if data is not None and not data.path:
        yield "data.path: required (jsonl or parquet file of prompts and responses)"


def environments_are_given(config: RunConfig) -> Iterator[str]:
    if config.needs_envs and not config.envs:
        yield "envs: required: name a training environment, as env: {id: tgpo/Math-v0, kwargs: {path: problems.jsonl}}"


def teachers_exist(config: RunConfig) -> Iterator[str]:
    if not config.needs_teacher:
        return
    known = [name for name, _ in teachers_of(config).items()]
    if not known:
        yield f"teachers: required: {config.algorithm} learns from one; write teacher: {{path: folder or id}}"
        return
    for index, env in enumerate(config.envs):
        if env.teacher not in known:
            yield f"envs.{index}.teacher: no teacher named {env.teacher!r}; `teachers` has {', '.join(known)}"


def groups_can_be_compared(config: RunConfig) -> Iterator[str]:
    training = config.training
    if config.group_relative and isinstance(training, TrainingConfig) and training.group_size < 2:
        size = training.group_size
        yield f"training.group_size: must be >= 2, got {size}: one episode has no group to compare with"


def updates_share_the_groups(config: RunConfig) -> Iterator[str]:
    training = config.training
    if not isinstance(training, TrainingConfig):
        return
    groups, updates = training.groups_per_iteration, training.updates_per_iteration
    if groups % updates:
        yield (
            f"training.groups_per_iteration: must be a multiple of updates_per_iteration ({updates}), got {groups}: "
            "each update trains on as many groups"
        )
    elif groups // updates * training.group_size < config.learners.num_learners:
        episodes = groups // updates * training.group_size
        yield (
            f"learners.num_learners: must be <= {episodes}, the episodes of one update, "
            f"got {config.learners.num_learners}: a learner would have nothing to train on"
        )


def training_options_fit(config: RunConfig) -> Iterator[str]:
    if isinstance(config.training, TrainingConfig):
        yield from config.training.problems(config)


def old_logprobs_fit(config: RunConfig) -> Iterator[str]:
    training = config.training
    if not isinstance(training, TrainingConfig) or training.old_logprobs != "none":
        return
    if training.updates_per_iteration > 1:
        yield (
            f"training.old_logprobs: none needs updates_per_iteration 1, got {training.updates_per_iteration}: after "
            "the first update the policy is no longer the one that sampled; write learner, sampler or null"
        )


def sampling_is_on_policy(config: RunConfig) -> Iterator[str]:
    training = config.training
    if isinstance(training, TrainingConfig) and training.max_staleness > 0:
        yield (
            f"training.max_staleness: must be 0, got {training.max_staleness}: runners cannot yet work ahead of the "
            "learners; within an iteration everything overlaps anyway"
        )


def training_samples_the_whole_vocabulary(config: RunConfig) -> Iterator[str]:
    top_p = config.env_runners.top_p
    if config.needs_envs and top_p < 1.0:
        yield (
            f"env_runners.top_p: must be 1.0 in training, got {top_p:g}: a token outside the nucleus has log-prob -inf "
            "under the sampler, and the ratio no value"
        )


def deepspeed_options_have_deepspeed(config: RunConfig) -> Iterator[str]:
    learners = config.learners
    if learners.engine == "torch":
        for key, value, default in (("zero_stage", learners.zero_stage, 0), ("offload", learners.offload, "none")):
            if value != default:
                yield f"learners.{key}: {value} needs learners.engine deepspeed, got torch"
    elif learners.offload == "optimizer" and learners.zero_stage < 1:
        yield f"learners.offload: optimizer needs zero_stage >= 1, got {learners.zero_stage}"
    elif learners.offload == "optimizer_and_parameters" and learners.zero_stage < 3:
        yield f"learners.offload: optimizer_and_parameters needs zero_stage 3, got {learners.zero_stage}"


def evaluation_has_sets(config: RunConfig) -> Iterator[str]:
    evaluation = config.evaluation
    if evaluation.every is not None and not evaluation.envs:
        yield f"evaluation.envs: required with evaluation.every {evaluation.every}: name a held-out set"
    labels = [env.label for env in evaluation.envs]
    for index, label in enumerate(labels):
        if label in labels[:index]:
            yield f"evaluation.envs.{index}.name: two sets are called {label!r} in the metrics; give one a name"


def guidance_schedule_is_whole(config: RunConfig) -> Iterator[str]:
    guidance = getattr(config, "guidance", None)
    if guidance is None:
        return
    for key, value in (("decay", guidance.decay), ("minimum", guidance.minimum)):
        if value > 0 and guidance.schedule != "linear":
            yield f"guidance.{key}: belongs to schedule linear, got {value:g} with {guidance.schedule}; write 0"
    if guidance.minimum > guidance.weight:
        yield f"guidance.minimum: must be <= guidance.weight ({guidance.weight:g}), got {guidance.minimum:g}"


def budget_holds_the_longest_episode(config: RunConfig) -> Iterator[str]:
    budget, longest = config.learners.token_budget, longest_episode(config)
    if budget is not None and budget < longest:
        source = "data.max_tokens" if hasattr(config, "data") else "max_prompt_tokens + max_response_tokens"
        yield f"learners.token_budget: must be >= {source} = {longest}, got {budget}: one sequence has to fit"


def lengths_fit_the_context(config: RunConfig) -> Iterator[str]:
    longest = longest_episode(config)
    source = "data.max_tokens" if hasattr(config, "data") else "max_prompt_tokens + max_response_tokens"
    if config.model.max_model_len is not None and longest > config.model.max_model_len:
        yield f"model.max_model_len: must be >= {source} = {longest}, got {config.model.max_model_len}"
    for where, model in _models(config):
        context = context_length(model_facts(model.path, model.hf_overrides))
        # a scorer's prefill asks the engine for one token more
        extra = int(where != "model" and getattr(model, "backend", "") != "transformers")
        if context is not None and longest + extra > context:
            owner = "model" if where == "reference" else where
            yield (
                f"{where}: {source}{' + 1' * extra} = {longest + extra} exceeds the context of {context} tokens; "
                f"lower them or raise {owner}.hf_overrides.max_position_embeddings"
            )


def kv_cache_holds_one_sequence(config: RunConfig) -> Iterator[str]:
    engines: list[tuple[str, ModelConfig | TeacherConfig, int]] = [
        (f"teachers.{name}", it, it.kv_cache_memory) for name, it in teachers_of(config).items() if it.backend == "vllm"
    ]
    if config.uses_reference and config.reference.backend == "vllm":
        engines.append(("reference", _reference_model(config), config.reference.kv_cache_memory))
    if config.needs_envs or config.evaluation.envs:
        engines.append(("env_runners", config.model, config.env_runners.kv_cache_memory))
    tokens = config.env_runners.max_prompt_tokens + config.env_runners.max_response_tokens
    for where, model, memory in engines:
        # `auto` counts as bfloat16, the smaller: what is refused here fails on every machine.
        per_token = kv_bytes_per_token(model_facts(model.path, model.hf_overrides), model.dtype)
        if per_token is not None and per_token * tokens > memory:
            yield (
                f"{where}.kv_cache_memory: must be >= {format_bytes(per_token * tokens)}, one sequence of {tokens} "
                f"tokens, got {format_bytes(memory)}"
            )


def model_folders_are_whole(config: RunConfig) -> Iterator[str]:
    for where, model in _models(config):
        if model.path:
            weights = getattr(model, "backend", "") != "remote"  # a served teacher's are elsewhere
            yield from folder_problems(where, model.path, model.tokenizer, weights=weights)


def _models(config: RunConfig) -> Iterator[tuple[str, ModelConfig | TeacherConfig]]:
    """Every model that the run loads, with the key that names it."""
    yield "model", config.model
    for name, teacher in teachers_of(config).items():
        yield f"teachers.{name}", teacher
    if config.uses_reference:
        yield "reference", _reference_model(config)


def _reference_model(config: RunConfig) -> ModelConfig:
    """The reference's files: what `reference` leaves open is the policy's."""
    model = config.model
    path = config.reference.path or model.path
    return model.model_copy(update={"path": path, "tokenizer": model.tokenizer or model.path})


RULES = (
    paths_are_given,
    environments_are_given,
    teachers_exist,
    teacher_backends_fit,
    groups_can_be_compared,
    updates_share_the_groups,
    old_logprobs_fit,
    training_options_fit,
    sampling_is_on_policy,
    training_samples_the_whole_vocabulary,
    deepspeed_options_have_deepspeed,
    evaluation_has_sets,
    guidance_schedule_is_whole,
    budget_holds_the_longest_episode,
)
FILE_RULES = (model_folders_are_whole, lengths_fit_the_context, kv_cache_holds_one_sequence)
