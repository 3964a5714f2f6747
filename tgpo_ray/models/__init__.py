"""Model folders, the loading of models, and the vLLM engine that runs them."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.models.adapters import Adapters
    from tgpo_ray.models.architectures import PROVEN, REFUSED, architecture_fact, architecture_problem
    from tgpo_ray.models.attention import flash_attention
    from tgpo_ray.models.chat_template_kwargs import template_kwargs_problems
    from tgpo_ray.models.checkpoint_layout import CheckpointLayout, saved_buffers
    from tgpo_ray.models.end_of_sequence import end_of_response, end_of_sequence_ids, no_end_problem
    from tgpo_ray.models.engine import Engine
    from tgpo_ray.models.engine_arguments import engine_arguments, engine_environment
    from tgpo_ray.models.engine_outputs import completions, split_prompt_logprobs
    from tgpo_ray.models.engine_spec import Completion, EngineSpec, Sampling
    from tgpo_ray.models.folder import (
        cache_problem,
        context_length,
        folder_problems,
        kv_bytes,
        local_model,
        model_facts,
    )
    from tgpo_ray.models.folder_checks import ModelSource, model_problems
    from tgpo_ray.models.folder_tensors import (
        MissingWeightsError,
        load_headers,
        stored_layout,
        tensor_problems,
    )
    from tgpo_ray.models.idle_cores import IdleCores, machine_cores
    from tgpo_ray.models.lean_scoring import RowCollector, draw
    from tgpo_ray.models.lm_head import StoredHead, find_head
    from tgpo_ray.models.loading import load_model
    from tgpo_ray.models.logit_transform import logit_transform
    from tgpo_ray.models.lora_spec import ADAPTER_WEIGHTS, MAX_ENGINE_RANK, LoraSpec, write_adapter
    from tgpo_ray.models.lora_targets import TargetModulesError, target_problems
    from tgpo_ray.models.overrides import UnknownOverrideError, load_config
    from tgpo_ray.models.prompt_text import text_prompt_ids, whole_text, without_end, without_second_beginning
    from tgpo_ray.models.scoring import MAX_TOP_K, Scores, ScoringBackend, ScoringRequest, Want
    from tgpo_ray.models.shared_vocabulary import num_shared_ids
    from tgpo_ray.models.split_parameters import gathered, whole_shape
    from tgpo_ray.models.tiny import byte_level_tokenizer, character_tokenizer, make_text_models, write_model
    from tgpo_ray.models.tiny_taught import make_taught_models
    from tgpo_ray.models.tokenizer import Tokenizer, VocabularyTokenizer, load_tokenizer
    from tgpo_ray.models.vllm_objects import RequestOutput
    from tgpo_ray.models.weight_buckets import Bucket, fill_buckets
    from tgpo_ray.models.weight_files import WeightFilesError, stored_tensors, weight_files
    from tgpo_ray.models.weight_transfer import (
        ChannelClient,
        TransferChannel,
        TransferNotBegunError,
        WeightTransfer,
        WeightTransferError,
        WeightUpdate,
        trainer_info_class,
    )

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "adapters": ["Adapters"],
        "architectures": ["PROVEN", "REFUSED", "architecture_fact", "architecture_problem"],
        "attention": ["flash_attention"],
        "chat_template_kwargs": ["template_kwargs_problems"],
        "checkpoint_layout": ["CheckpointLayout", "saved_buffers"],
        "end_of_sequence": ["end_of_response", "end_of_sequence_ids", "no_end_problem"],
        "engine": ["Engine"],
        "engine_arguments": ["engine_arguments", "engine_environment"],
        "engine_outputs": ["completions", "split_prompt_logprobs"],
        "engine_spec": ["Completion", "EngineSpec", "Sampling"],
        "folder": [
            "cache_problem",
            "context_length",
            "folder_problems",
            "kv_bytes",
            "local_model",
            "model_facts",
        ],
        "folder_checks": ["ModelSource", "model_problems"],
        "folder_tensors": [
            "MissingWeightsError",
            "stored_layout",
            "load_headers",
            "tensor_problems",
        ],
        "lean_scoring": ["RowCollector", "draw"],
        "idle_cores": ["IdleCores", "machine_cores"],
        "lm_head": ["StoredHead", "find_head"],
        "loading": ["load_model"],
        "logit_transform": ["logit_transform"],
        "lora_spec": ["ADAPTER_WEIGHTS", "MAX_ENGINE_RANK", "LoraSpec", "write_adapter"],
        "lora_targets": ["TargetModulesError", "target_problems"],
        "overrides": ["UnknownOverrideError", "load_config"],
        "split_parameters": ["gathered", "whole_shape"],
        "prompt_text": ["text_prompt_ids", "whole_text", "without_end", "without_second_beginning"],
        "scoring": ["MAX_TOP_K", "Scores", "ScoringBackend", "ScoringRequest", "Want"],
        "shared_vocabulary": ["num_shared_ids"],
        "tiny": ["byte_level_tokenizer", "character_tokenizer", "make_text_models", "write_model"],
        "tiny_taught": ["make_taught_models"],
        "tokenizer": ["Tokenizer", "VocabularyTokenizer", "load_tokenizer"],
        "vllm_objects": ["RequestOutput"],
        "weight_buckets": ["Bucket", "fill_buckets"],
        "weight_files": ["WeightFilesError", "stored_tensors", "weight_files"],
        "weight_transfer": [
            "ChannelClient",
            "TransferChannel",
            "TransferNotBegunError",
            "WeightTransfer",
            "WeightTransferError",
            "WeightUpdate",
            "trainer_info_class",
        ],
    },
)
