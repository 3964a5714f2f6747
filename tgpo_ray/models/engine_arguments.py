"""The environment variables and keyword arguments with which vLLM is started, on a CPU and on GPUs."""

from __future__ import annotations

from typing import Any

from tgpo_ray.models.engine_spec import EngineSpec
from tgpo_ray.models.folder import model_facts
from tgpo_ray.models.weight_transfer import trainer_info_class

CPU_ENVIRONMENT = {
    # vLLM binds each engine's threads to all cores by default: two engines on two cores then spin against each other.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "OMP_NUM_THREADS": "1",
    # The first request with log-probs compiles a sampler function with the C++ compiler for 17 s: not worth it here.
    "TORCHDYNAMO_DISABLE": "1",
}
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
}

CARD_SHARE = 0.9  # of its part of a card that an engine fills with `kv_cache_memory: auto`; the rest is the driver's


def engine_environment(*, gpu: bool) -> dict[str, str]:
    """Returns the environment variables that an actor needs before it imports vllm."""
    return ENVIRONMENT if gpu else ENVIRONMENT | CPU_ENVIRONMENT


def engine_arguments(spec: EngineSpec, *, gpu: bool) -> dict[str, Any]:
    """Returns the keyword arguments of vLLM's EngineArgs.

    Raises:
        ValueError: a KV cache of `auto` or sleep mode on a CPU.
    """
    arguments: dict[str, Any] = {
        "model": spec.model,
        "tokenizer": spec.tokenizer or spec.model,
        "dtype": spec.dtype,
        "max_model_len": spec.max_model_len,
        "max_num_seqs": spec.max_num_seqs,
        "tensor_parallel_size": spec.tensor_parallel_size,
        "hf_overrides": _head_precision(spec) | spec.hf_overrides,
        "trust_remote_code": spec.trust_remote_code,
        "seed": spec.seed,
        "max_logprobs": spec.max_logprobs,
        # vLLM's default reports log-probs before the temperature; a policy gradient needs those it sampled from.
        "logprobs_mode": "processed_logprobs",
        "enable_prefix_caching": True,
        "disable_log_stats": True,
        "worker_extension_cls": "tgpo_ray.models.worker_extension.WorkerExtension",
        "generation_config": "vllm",  # otherwise the sampling defaults of a model's folder would leak into training
    }
    if spec.kv_cache_memory is not None:
        arguments["kv_cache_memory_bytes"] = spec.kv_cache_memory
    elif gpu:  # vLLM measures weights and activations at start-up, and the cache fills the rest of the share
        arguments["gpu_memory_utilization"] = CARD_SHARE * spec.card_share
    else:
        raise ValueError("kv_cache_memory must be bytes on a CPU, got auto: vLLM would take a share of the machine")
    if spec.sleep and not gpu:
        raise ValueError("env_runners.sleep: needs a GPU: vLLM's sleep mode maps and unmaps a card's memory")
    if spec.sleep:
        arguments["enable_sleep_mode"] = True
    if spec.lora is not None:
        arguments |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": spec.lora.engine_rank}
    if spec.weight_transfer is not None:
        arguments["weight_transfer_config"] = {"backend": trainer_info_class(spec.weight_transfer).backend}
    if not gpu:  # on a CPU the default block has 128 ids, and the prefix cache shares only whole blocks
        arguments |= {"enforce_eager": True, "block_size": 32}
        # vLLM takes back the draw of a prefill that it has split, by an offset that a CPU's generator does not have: a
        # request with a seed would end the engine
        arguments["enable_chunked_prefill"] = False
    return arguments


def _head_precision(spec: EngineSpec) -> dict[str, str]:
    """Returns the override of vLLM that keeps logits of half-precision weights in float32, as the learner's are.

    A quantized model has none, because its head may be one that vLLM cannot widen.
    """
    facts = model_facts(spec.model, spec.hf_overrides)
    half = spec.dtype in ("bfloat16", "float16", "half")
    return {"head_dtype": "float32"} if half and "quantization_config" not in facts else {}
