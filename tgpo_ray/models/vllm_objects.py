"""What this package reads of vLLM's objects: most of them are no public interface, so each attribute is listed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch


class FlatLogprobs(Protocol):
    """Log-probs of all positions, one after the other; position p has the entries from start_indices[p] on."""

    logprobs: Sequence[float]
    token_ids: Sequence[int]
    start_indices: Sequence[int]
    end_indices: Sequence[int]


class Choice(Protocol):
    """One response of a request."""

    token_ids: Sequence[int]
    logprobs: FlatLogprobs | None
    finish_reason: str | None


class RequestOutput(Protocol):
    """A request that has ended."""

    request_id: str
    outputs: Sequence[Choice]
    prompt_logprobs: FlatLogprobs


class NewRequest(Protocol):
    """A request in the first step that the scheduler gives it."""

    req_id: str
    sampling_params: Any  # SamplingParams, whose `extra_args` carry our mark
    num_computed_tokens: int


class CachedRequests(Protocol):
    """The step's requests that a step before it has begun."""

    req_ids: Sequence[str]
    num_computed_tokens: Sequence[int]


class SchedulerOutput(Protocol):
    """What one step computes."""

    scheduled_new_reqs: Sequence[NewRequest]
    scheduled_cached_reqs: CachedRequests
    num_scheduled_tokens: Mapping[str, int]


class StepState(Protocol):
    """What a step leaves behind for the sampler."""

    hidden_states: torch.Tensor | None


class ModelRunner(Protocol):
    """vLLM's model runner, of either generation."""

    model: Any  # a causal model with `compute_logits`
    model_config: Any  # with `get_vocab_size`
    execute_model: Any  # replaced while rows are collected
    execute_model_state: StepState | None
    query_start_loc: Any  # of the first generation: a buffer with a numpy view `np`
    input_batch: Any  # of the first generation: with `req_id_to_index`


class StepBatch(Protocol):
    """The batch that the second generation keeps with a step."""

    req_ids: Sequence[str]
    query_start_loc_np: np.ndarray
