"""The attributes of vLLM's objects that this package reads. Most of them are no public interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch


class FlatLogprobs(Protocol):
    """Log-probs of all positions in one sequence. Position p has the entries start_indices[p] to end_indices[p]."""

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
    """A finished request."""

    request_id: str
    outputs: Sequence[Choice]
    prompt_logprobs: FlatLogprobs


class NewRequest(Protocol):
    """A request in its first scheduled step."""

    req_id: str
    sampling_params: Any  # SamplingParams; `extra_args` may have our SCORED_INDEX
    num_computed_tokens: int


class CachedRequests(Protocol):
    """The step's requests that began in an earlier step."""

    req_ids: Sequence[str]
    num_computed_tokens: Sequence[int]


class SchedulerOutput(Protocol):
    """The work of one step."""

    scheduled_new_reqs: Sequence[NewRequest]
    scheduled_cached_reqs: CachedRequests
    num_scheduled_tokens: Mapping[str, int]


class StepState(Protocol):
    """The state that a step leaves for the sampler."""

    hidden_states: torch.Tensor | None  # (N, D), the step's tokens of all requests; None before the last stage


class ModelRunner(Protocol):
    """vLLM's model runner of the first or second generation."""

    model: Any  # a causal model with `compute_logits`
    model_config: Any  # with `get_vocab_size`
    execute_model: Any  # replaced while rows are collected
    execute_model_state: StepState | None
    query_start_loc: Any  # only the first generation: a buffer with a numpy view `np`, (R + 1,)
    input_batch: Any  # only the first generation: with `req_id_to_index`


class StepBatch(Protocol):
    """The batch that the second generation stores with a step."""

    req_ids: Sequence[str]
    query_start_loc_np: np.ndarray  # (R + 1,) int32, the first row of each request
