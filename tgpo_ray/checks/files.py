"""Checks that only read files. They load no model and start no actor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tgpo_ray.checks.results import CheckResult, Finding, judged, skipped
from tgpo_ray.config import format_bytes
from tgpo_ray.costs import shape_of
from tgpo_ray.models import context_length, kv_bytes, load_tokenizer, model_facts
from tgpo_ray.teachers import TEACHER_CONTEXT_SLACK, teacher_spec, vocabulary_map

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig, ModelConfig, TeacherConfig
    from tgpo_ray.models import VocabularyTokenizer

SCORING_CHUNK = 256 * 2**20  # most bytes of float32 logits that a teacher forms at a time
TRAINING_BYTES = {"float32": 16, "bfloat16": 18}  # a parameter: weight, gradient, two moments, float32 master
MAX_UNMAPPED_SHARE_OF_IDS = 0.5  # above it the two tokenizers have little in common
KvCache = int | Literal["auto"]
Check = Callable[["AlgorithmConfig"], Iterator[CheckResult]]
USER_MESSAGES = [{"role": "user", "content": "1+1="}]


def check_files(config: AlgorithmConfig) -> Iterator[CheckResult]:
    """Yields the results one by one. `config` must be resolved."""
    for check in CHECKS:
        yield from _guarded(check, config)


def _guarded(check: Check, config: AlgorithmConfig) -> Iterator[CheckResult]:
    try:
        yield from check(config)
    except (ValueError, OSError) as error:  # what tokenizers and model folders raise
        name = check.__name__.removeprefix("check_").replace("_", " ")
        finding = Finding(None, f"{type(error).__name__}: {error}")
        yield CheckResult(name, "failed", "raised", "runs to its end", "fix what raises", (finding,))


def check_contexts(config: AlgorithmConfig) -> Iterator[CheckResult]:
    """Yields the context of every model against the longest sequence that the model may read."""
    needed = config.longest_episode()
    models = {"policy": (config.model.path, config.model.hf_overrides)}
    models |= {f"teacher {name}": (it.path, it.hf_overrides) for name, it in config.teacher_pools().items()}
    for name, (path, overrides) in models.items():
        has_own_tokenizer = name != "policy" and not _same_tokenizer(config, path)
        wanted = int(needed * TEACHER_CONTEXT_SLACK) if has_own_tokenizer else needed
        bound = f">= {wanted} tokens: prompt and response" + (
            ", in the teacher's own pieces" if has_own_tokenizer else ""
        )
        length = context_length(model_facts(path, overrides))
        if length is None:
            yield skipped(f"context of {name}", f"{path} is no local folder", bound)
            continue
        findings = [Finding(None, f"{path} reads {length} tokens")] if length < wanted else []
        fix = "lower env_runners.max_prompt_tokens or max_response_tokens, or raise hf_overrides"
        yield judged(f"context of {name}", findings, measured=f"{length} tokens", bound=bound, fix=fix)


def _same_tokenizer(config: AlgorithmConfig, path: str) -> bool:
    """Returns whether both folders have the same tokenizer file; False if a folder has no such file."""
    files = [Path(it).expanduser() / "tokenizer.json" for it in (config.model.tokenizer or config.model.path, path)]
    return all(file.is_file() for file in files) and files[0].read_bytes() == files[1].read_bytes()


def check_memory(config: AlgorithmConfig) -> Iterator[CheckResult]:
    """Yields the memory of every actor (weights, caches, scoring buffers), and their sum against a CPU machine's."""
    total = 0
    runners, learners, model = config.env_runners, config.learners, config.model
    if config.needs_envs:
        size, measured = _engine(
            config, model.path, model.dtype, runners.kv_cache_memory, model.hf_overrides, scores=False
        )
        total += size * runners.num_env_runners
        yield CheckResult("memory of an env runner", "ok", measured, "stated")
    for name, it in config.teacher_pools().items():
        if it.backend == "remote":
            continue
        kv = it.kv_cache_memory if it.backend == "vllm" else 0
        size, measured = _engine(config, it.path, it.dtype, kv, it.hf_overrides, scores=True)
        total += size * it.num_replicas
        yield CheckResult(f"memory of teacher {name}", "ok", measured, "stated")
    if config.starts_reference:
        it = config.reference
        kv = it.kv_cache_memory if it.backend == "vllm" else 0
        size, measured = _engine(config, it.path or model.path, model.dtype, kv, model.hf_overrides, scores=True)
        total += size * it.num_replicas
        yield CheckResult("memory of the reference", "ok", measured, "stated")
    # ZeRO splits one copy of the training state over the ranks; without it each rank has a copy
    training = _training_bytes(model)
    total += training * (1 if learners.zero_stage else learners.num_learners)
    yield _together(total, training, gpus=bool(learners.num_gpus_per_learner))


def _training_bytes(model: ModelConfig) -> int:
    """Returns the bytes of weights, gradients and optimizer of one copy. Frozen weights have neither of the two."""
    parameters, each = _num_parameters(model.path), TRAINING_BYTES[model.dtype]
    if model.lora is None:
        return parameters * each
    adapters = shape_of(model.path, model.hf_overrides, lora=model.lora.spec).adapters
    return parameters * (4 if model.dtype == "float32" else 2) + adapters * each


def _engine(
    config: AlgorithmConfig, path: str, dtype: str, kv_cache: KvCache, overrides: dict[str, Any], *, scores: bool
) -> tuple[int, str]:
    """Returns the bytes of one engine, and their parts in words."""
    facts = model_facts(path, overrides)
    weights = _num_parameters(path) * (4 if dtype == "float32" else 2)
    parts = [f"{format_bytes(weights)} weights" if weights else "weights unknown"]
    longest = config.longest_episode()
    per_sequence = kv_bytes(facts, dtype, longest)
    if kv_cache == "auto":
        parts.append("a KV cache of what is left of its share of the card")
        kv_cache = 0
    if kv_cache:
        room = f" = {kv_cache // per_sequence} sequences of {longest} tokens" if per_sequence else ""
        parts.append(f"{format_bytes(kv_cache)} KV cache{room}")
    logits = min(SCORING_CHUNK, 4 * longest * facts.get("vocab_size", 0)) if scores else 0
    if logits:
        parts.append(f"{format_bytes(logits)} logits a chunk")
    return weights + kv_cache + logits, ", ".join(parts)


def _together(total: int, training: int, *, gpus: bool) -> CheckResult:
    needed = format_bytes(total)
    measured = f"{needed}, {format_bytes(training)} of it training state of one copy; activations not counted"
    if gpus:
        return CheckResult("memory in all", "ok", measured, "stated (GPUs are not looked at)")
    available = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    too_much = Finding(None, f"{needed} on a machine of {format_bytes(available)}")
    bound = f"<= {format_bytes(available)}, this machine's memory"
    fix = "lower kv_cache_memory or the number of actors, or use a cluster of several machines"
    return judged("memory in all", [too_much] if total > available else [], measured=measured, bound=bound, fix=fix)


def _num_parameters(path: str) -> int:
    """Returns the number of parameters in a local folder's safetensors files, from their headers; 0 without files."""
    from safetensors import safe_open

    count = 0
    for file in Path(path).expanduser().glob("*.safetensors"):
        with safe_open(file, framework="np") as tensors:
            for name in tensors.keys():  # noqa: SIM118  (no mapping)
                shape = tensors.get_slice(name).get_shape()  # a slice reads the header and not the weights
                size = 1
                for length in shape:
                    size *= length
                count += size
    return count


def check_templates(config: AlgorithmConfig) -> Iterator[CheckResult]:
    """Yields whether the ids of a chat template decode to its text, and whether the message is in it."""
    yield _template("policy", config.model, config, needed=False)
    for name, teacher in config.teacher_pools().items():
        if teacher.prompt == "own_template":
            yield _template(f"teacher {name}", teacher, config, needed=True)


def _template(who: str, model: ModelConfig | TeacherConfig, config: AlgorithmConfig, *, needed: bool) -> CheckResult:
    name, bound = f"chat template of {who}", "its ids spell its text"
    path = model.tokenizer or model.path
    tokenizer = _tokenizer(path, config, model.chat_template_kwargs)
    if tokenizer.chat_template is None:
        if not needed:
            return skipped(name, "there is none: prompts are plain text", bound)
        finding = Finding(None, f"{path} has no chat template, and prompt: own_template asks for it")
        return judged(name, [finding], measured="none", bound=bound, fix="write prompt: policy, or name a tokenizer")
    text = tokenizer.apply_chat_template(USER_MESSAGES, add_generation_prompt=True, tokenize=False)
    ids = tokenizer.apply_chat_template(USER_MESSAGES, add_generation_prompt=True, return_dict=False)
    back = tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    findings = [Finding(None, f"{text!r} comes back as {back!r}")] if back != text else []
    if USER_MESSAGES[0]["content"] not in back:
        findings.append(Finding(None, f"{USER_MESSAGES[0]['content']!r} is not in {back!r}"))
    fix = "the tokenizer adds or drops text around its template: use the model's own tokenizer"
    return judged(name, findings, measured=f"{len(ids)} ids", bound=bound, fix=fix)


def _tokenizer(path: str, config: AlgorithmConfig, values: Mapping[str, Any] | None = None) -> VocabularyTokenizer:
    return load_tokenizer(path, trust_remote_code=config.model.trust_remote_code, chat_template_kwargs=values)


def check_vocabularies(config: AlgorithmConfig) -> Iterator[CheckResult]:
    """Yields the share of each teacher's vocabulary that the policy can learn, and of the policy's that it can read."""
    for name, teacher in config.teacher_pools().items():
        spec = teacher_spec(config, teacher, unmapped=config.unmapped)
        tokenizer = _tokenizer(teacher.tokenizer or teacher.path, config)
        summary = vocabulary_map(tokenizer, spec).summary()
        if summary.is_identity:
            measured = f"{summary.teacher_size} ids, the same on both sides"
        else:
            measured = (
                f"of {summary.teacher_size} teacher ids {summary.shared} shared, {summary.respelled} respelled, "
                f"{summary.unmapped} unmapped; of {summary.policy_size} policy ids {summary.read_in_pieces} read in "
                f"pieces, {summary.unreadable} unreadable"
            )
        share = summary.unmapped / max(1, summary.teacher_size)
        lost = [teacher_id for teacher_id, policy_id in summary.end_of_sequence if policy_id < 0]
        findings = [Finding(None, f"teacher id {eos} ends a sequence and has no policy id") for eos in lost]
        if share > MAX_UNMAPPED_SHARE_OF_IDS:
            findings.append(Finding(None, f"{share:.1%} of the teacher's ids give no guidance"))
        bound = f"at most {MAX_UNMAPPED_SHARE_OF_IDS:.0%} unmapped, ends of sequence mapped"
        fix = "choose a teacher with the policy's tokenizer, or set guidance.unmapped: first_piece"
        yield judged(f"vocabulary of teacher {name}", findings, measured=measured, bound=bound, fix=fix)


CHECKS: tuple[Check, ...] = (
    check_contexts,
    check_memory,
    check_templates,
    check_vocabularies,
)
