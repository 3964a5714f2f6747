"""Model folders, their loading, and vLLM's engine around them."""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.models.end_of_sequence import end_of_sequence_ids
    from tgpo_ray.models.engine import (
        Completion,
        Engine,
        EngineSpec,
        Sampling,
        completions,
        engine_environment,
        prompt_scores,
    )
    from tgpo_ray.models.folder import context_length, folder_problems, kv_bytes_per_token, local_model, model_facts
    from tgpo_ray.models.lean_scoring import RowCollector, needs_logits
    from tgpo_ray.models.lm_head import head_weight
    from tgpo_ray.models.loading import load_model
    from tgpo_ray.models.scored_rows import assemble, cut, distinct, partings
    from tgpo_ray.models.scoring import MAX_TOP_K, Scores, ScoringBackend, ScoringRequest, Want
    from tgpo_ray.models.shared_vocabulary import num_shared_ids
    from tgpo_ray.models.tiny import byte_level_tokenizer, character_tokenizer, make_text_models, write_model
    from tgpo_ray.models.weight_buckets import fill_buckets

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "end_of_sequence": ["end_of_sequence_ids"],
        "engine": [
            "Completion",
            "Engine",
            "EngineSpec",
            "Sampling",
            "completions",
            "engine_environment",
            "prompt_scores",
        ],
        "folder": ["context_length", "folder_problems", "kv_bytes_per_token", "local_model", "model_facts"],
        "lean_scoring": ["RowCollector", "needs_logits"],
        "lm_head": ["head_weight"],
        "loading": ["load_model"],
        "scored_rows": ["assemble", "cut", "distinct", "partings"],
        "scoring": ["MAX_TOP_K", "Scores", "ScoringBackend", "ScoringRequest", "Want"],
        "shared_vocabulary": ["num_shared_ids"],
        "tiny": ["byte_level_tokenizer", "character_tokenizer", "make_text_models", "write_model"],
        "weight_buckets": ["fill_buckets"],
    },
)
