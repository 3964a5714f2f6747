"""Flat arrays from the outputs of vLLM's engine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tgpo_ray.models.engine_spec import Completion

if TYPE_CHECKING:
    from tgpo_ray.models.vllm_objects import Choice, FlatLogprobs, RequestOutput


def completions(output: RequestOutput) -> list[Completion]:
    """Returns the responses of one finished request, in sampling order."""
    return [
        Completion(
            token_ids=np.asarray(choice.token_ids, np.int32),
            logprobs=None if choice.logprobs is None else _sampled_logprobs(choice.logprobs),
            stop_reason=choice.finish_reason if choice.finish_reason in ("stop", "length") else "abort",
            versions=_versions(choice),
        )
        for choice in output.outputs
    ]


def _versions(choice: Choice) -> tuple[tuple[int, int], ...]:
    spans = getattr(choice, "weight_versions", None) or ()  # vLLM before 0.32 has none
    return tuple((span.start, int(span.version)) for span in spans if span.version.isdecimal())


def _sampled_logprobs(flat: FlatLogprobs) -> np.ndarray:
    """Returns (T,) float32, the log-prob of each sampled token. vLLM lists that token first at its position."""
    return np.asarray(flat.logprobs, np.float32)[np.asarray(flat.start_indices, np.int64)]


def split_prompt_logprobs(output: RequestOutput, top_k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the log-probs of prompt tokens 1..L-1, and the model's `top_k` tokens there with theirs.

    The shapes are (L-1,) float32, (L-1, top_k) int32 and (L-1, top_k) float32. Row j belongs to prompt token j + 1.
    vLLM lists the prompt's own token first and the best k after it, so a position has k + 1 entries.
    """
    flat = output.prompt_logprobs
    starts = np.asarray(flat.start_indices[1:], np.int64)  # (L-1,), position 0 has no prediction
    widths = np.asarray(flat.end_indices[1:], np.int64) - starts
    # both ((L-1) * (k+1),)
    ids, logprobs = np.asarray(flat.token_ids, np.int64), np.asarray(flat.logprobs, np.float32)
    if (widths != top_k + 1).any():
        raise RuntimeError(f"vLLM returned {widths.tolist()} log-probs a position, expected {top_k + 1} each")
    columns = starts[:, None] + np.arange(1, top_k + 1)[None, :]  # (L-1, k)
    return logprobs[starts], ids[columns].astype(np.int32), logprobs[columns]
