"""The rules for a run's model folders: weights and tokenizer, a long enough context, room in the KV cache."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from tgpo_ray.config.run_config import RunConfig
from tgpo_ray.config.sections import ModelConfig
from tgpo_ray.config.teacher_sections import TeacherConfig
from tgpo_ray.config.values import format_bytes
from tgpo_ray.models import (
    ModelSource,
    UnknownOverrideError,
    architecture_problem,
    cache_problem,
    context_length,
    folder_problems,
    kv_bytes,
    load_config,
    local_model,
    model_facts,
    model_problems,
    target_problems,
)


def file_rules(config: RunConfig) -> Iterator[str]:
    """Yields a line for each rule that the model folders break."""
    yield from model_folders_are_whole(config)
    yield from overrides_are_keys_of_the_model(config)
    yield from lengths_fit_the_context(config)
    yield from kv_cache_holds_one_sequence(config)
    yield from prompts_can_be_shared(config)
    yield from engines_take_over_the_weights(config)


class LoadedModel(NamedTuple):
    """One model that the run loads."""

    where: str  # the key that names it
    model: ModelConfig | TeacherConfig
    extra_tokens: int = 0  # 1 for a scorer, whose prefill makes the engine generate one token
    weights: bool = True  # False where a server elsewhere has them


def loaded_models(config: RunConfig) -> Iterator[LoadedModel]:
    """Yields every model that the run loads."""
    yield LoadedModel("model", config.model)
    for name, teacher in config.teacher_pools().items():
        extra_tokens = int(teacher.backend != "transformers")
        yield LoadedModel(f"teachers.{name}", teacher, extra_tokens, teacher.backend != "remote")
    if config.starts_reference:
        yield LoadedModel("reference", reference_model(config), 1)


def reference_model(config: RunConfig) -> ModelConfig:
    """Returns the reference's model, with the policy's values where `reference` has none."""
    model = config.model
    path = config.reference.path or model.path
    return model.model_copy(update={"path": path, "tokenizer": model.tokenizer or model.path})


def model_folders_are_whole(config: RunConfig) -> Iterator[str]:
    for where, model, _, weights in loaded_models(config):
        if model.path:
            yield from folder_problems(where, model.path, model.tokenizer, weights=weights)


def overrides_are_keys_of_the_model(config: RunConfig) -> Iterator[str]:
    """Yields a line for each override that its model would ignore. vLLM takes any name without a word."""
    asked: set[tuple[str, str]] = set()
    for where, model, _, weights in loaded_models(config):
        owner = "model" if where == "reference" else where  # the reference has the policy's overrides
        folder = local_model(model.path)
        if not (weights and model.hf_overrides and (Path(folder) / "config.json").is_file()):
            continue
        if (owner, folder) in asked:
            continue
        asked.add((owner, folder))
        try:
            load_config(folder, model.hf_overrides, trust_remote_code=config.model.trust_remote_code, section=owner)
        except UnknownOverrideError as error:
            yield str(error)
        except (ValueError, OSError):  # the library that loads the model reports a broken file
            continue


def models_are_there(config: RunConfig) -> Iterator[str]:
    """Yields what keeps the folders and ids from being the models: names of tensors, tokenizers, ids of the hub.

    It needs seconds and transformers, and may ask the hub, so it comes after the rules that need neither.
    """
    for where, model, _, weights in loaded_models(config):
        teacher = isinstance(model, TeacherConfig)
        backend = model.backend if teacher else config.reference.backend if where == "reference" else "learner"
        source = ModelSource(
            where=where,
            path=model.path,
            tokenizer=model.tokenizer,
            loader=backend if weights and backend != "remote" else "none",
            hf_overrides=model.hf_overrides,
            trust_remote_code=config.model.trust_remote_code,
        )
        yield from model_problems(source)
    model = config.model
    if model.lora is not None:
        own_code = {"trust_remote_code": model.trust_remote_code}
        yield from target_problems(model.path, model.hf_overrides, model.lora.spec, **own_code)


def lengths_fit_the_context(config: RunConfig) -> Iterator[str]:
    longest, keys = config.longest_episode(), config.longest_episode_keys
    if config.model.max_model_len is not None and longest > config.model.max_model_len:
        yield f"model.max_model_len: must be >= {keys} = {longest}, got {config.model.max_model_len}"
    for where, model, extra_tokens, _ in loaded_models(config):
        context = context_length(model_facts(model.path, model.hf_overrides))
        if context is not None and longest + extra_tokens > context:
            owner = "model" if where == "reference" else where
            yield (
                f"{where}: {keys}{' + 1' * extra_tokens} = {longest + extra_tokens} exceeds the context of {context} "
                f"tokens; lower them or raise {owner}.hf_overrides.max_position_embeddings"
            )


def kv_cache_holds_one_sequence(config: RunConfig) -> Iterator[str]:
    engines: list[tuple[str, ModelConfig | TeacherConfig, int | Literal["auto"]]] = [
        (f"teachers.{name}", teacher, teacher.kv_cache_memory)
        for name, teacher in config.teacher_pools().items()
        if teacher.backend == "vllm"
    ]
    if config.starts_reference and config.reference.backend == "vllm":
        engines.append(("reference", reference_model(config), config.reference.kv_cache_memory))
    if config.needs_envs or config.evaluation.envs:
        engines.append(("env_runners", config.model, config.env_runners.kv_cache_memory))
    tokens = config.env_runners.max_prompt_tokens + config.env_runners.max_response_tokens
    for where, model, memory in engines:
        # `auto` counts as bfloat16, the smaller: a cache that is refused here fails on every machine.
        needed = kv_bytes(model_facts(model.path, model.hf_overrides), model.dtype, tokens)
        # the memory `auto` is that of a card, which is known when the run joins its cluster
        if needed is not None and memory != "auto" and needed > memory:
            yield (
                f"{where}.kv_cache_memory: must be >= {format_bytes(needed)}, one sequence of {tokens} "
                f"tokens, got {format_bytes(memory)}"
            )


def prompts_can_be_shared(config: RunConfig) -> Iterator[str]:
    problem = cache_problem(model_facts(config.model.path, config.model.hf_overrides))
    if config.learners.layout == "shared_prompt" and problem:
        yield (
            "learners.layout: shared_prompt needs the keys and values of the whole prompt in every layer, and "
            f"{problem} in config.json of {config.model.path}; use padded or packed"
        )


def engines_take_over_the_weights(config: RunConfig) -> Iterator[str]:
    problem = architecture_problem(model_facts(config.model.path, config.model.hf_overrides))
    if config.needs_envs and problem:
        yield f"model.path: {config.model.path} cannot be trained: {problem}; docs/models.md has those that can"
