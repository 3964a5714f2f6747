"""Predictions of only the response rows inside vLLM's worker, through the model's own LM head.

`prompt_logprobs` computes the logits of every prompt position, normalises and ranks them, and returns a Python object a
token. `RowCollector` reads the final hidden states of only the wanted rows, where the model leaves them. The LM head
reads these rows chunk by chunk, and a row leaves a few numbers in a flat array.

`RowCollector` relies on parts of vLLM's model runners that are no public interface: `execute_model`, its
`execute_model_state` with the hidden states, `scheduler_output`, and the position of each request's first row. It
serves both of vLLM's model runners. The backend compares the results with `prompt_logprobs` before it relies on them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from tgpo_ray.models.scoring import SCORED_INDEX, ScoringRequest, Want, needs_distribution, needs_logits

if TYPE_CHECKING:
    from tgpo_ray.models.vllm_objects import ModelRunner, SchedulerOutput, StepBatch, StepState

# Bytes of one chunk's logits, float32. On a CPU they should stay in the cache for the passes that follow. On a GPU a
# product of few rows leaves the cores idle.
CHUNK_BYTES = {"cpu": 16 * 2**20, "cuda": 256 * 2**20}

Partings = dict[int, list[tuple[int, int]]]  # index of a request -> (row, index of a mate that needs this row as well)


@dataclass(frozen=True)
class ScoredRows:
    """The predictions of one worker in flat arrays."""

    spans: np.ndarray  # (S, 3) int64: index of the request, the first of its rows here, the row after the last
    fields: dict[str, np.ndarray]  # fields of Scores: (n, ...), the rows of all spans one after the other


class Span(NamedTuple):
    """The rows of one request that one step of the engine computed."""

    request: int  # its index in the call
    start: int  # row of the request
    stop: int
    position: int  # of `start` among the step's hidden states


class RowCollector:
    """A wrapper around a model runner's `execute_model` that scores the rows of each step until `take`."""

    def __init__(
        self, runner: ModelRunner, requests: Sequence[ScoringRequest], partings: Partings, want: Want, seed: int
    ) -> None:
        self._runner, self._requests, self._partings, self._want = runner, requests, partings, want
        self._generator = torch.Generator().manual_seed(seed)
        self._indices: dict[str, int] = {}  # by the engine's request id
        self._spans: list[Span] = []
        self._parts: list[dict[str, torch.Tensor]] = []
        self._error: Exception | None = None
        self._execute = runner.execute_model
        runner.execute_model = self._execute_model

    def take(self) -> ScoredRows | None:
        """Returns everything scored, or None in a process without logits. It restores the runner's method.

        Raises:
            RuntimeError: scoring a step failed.
        """
        self._runner.execute_model = self._execute
        if self._error is not None:
            raise RuntimeError(f"lean scoring failed: {type(self._error).__name__}: {self._error}") from self._error
        if not self._parts:
            return None
        spans = np.array([span[:3] for span in self._spans], np.int64)  # (S, 3)
        fields = {name: torch.cat([part[name] for part in self._parts]).cpu().numpy() for name in self._parts[0]}
        return ScoredRows(spans, fields)

    def _execute_model(self, scheduler_output: SchedulerOutput, *args: object, **kwargs: object) -> object:
        output = self._execute(scheduler_output, *args, **kwargs)
        try:
            self._keep(scheduler_output, self._runner.execute_model_state)
        except Exception as error:  # `take` raises it: an exception inside a step would leave the engine unusable
            self._error = error
        return output

    def _keep(self, scheduler_output: SchedulerOutput, state: StepState | None) -> None:
        for request in scheduler_output.scheduled_new_reqs:
            # `extra_args` is None by default, and a request may come without sampling parameters
            index = ((request.sampling_params and request.sampling_params.extra_args) or {}).get(SCORED_INDEX)
            if index is not None:
                self._indices[request.req_id] = index
        if state is None or state.hidden_states is None:  # not the last pipeline stage
            return
        if spans := self._spans_of(scheduler_output, state):
            self._score(state.hidden_states, spans)

    def _spans_of(self, scheduler_output: SchedulerOutput, state: StepState) -> list[Span]:
        """Returns the scored rows that this step computes. Position first + r - 1 of a request predicts its row r."""
        counts, positions, spans = scheduler_output.num_scheduled_tokens, None, []
        for request_id, computed in _computed_before(scheduler_output):
            index = self._indices.get(request_id)
            if index is None:
                continue
            request = self._requests[index]
            begin = request.first - 1
            # the last position predicts a token after the end, so no row belongs to it
            start, stop = max(computed, begin), min(computed + counts[request_id], len(request.ids) - 1)
            if start < stop:
                positions = _positions(self._runner, state) if positions is None else positions
                at = positions[request_id] + start - computed  # index of `start` in the step's (N, D) states
                spans.append(Span(index, start - begin, stop - begin, at))
                for row, mate in self._partings.get(index, ()):
                    if start <= row + begin < stop:
                        spans.append(Span(mate, row, row + 1, at + row + begin - start))
        return spans

    @torch.inference_mode()
    def _score(self, hidden: torch.Tensor, spans: Sequence[Span]) -> None:
        # vLLM packs the tokens of all requests into one dimension: hidden is (N, D)
        where = np.concatenate([np.arange(s.position, s.position + s.stop - s.start) for s in spans])  # (n,)
        targets = np.concatenate([self._tokens(s) for s in spans]).astype(np.int64)  # (n,)
        predicted = self._predict(hidden, torch.from_numpy(where).to(hidden.device), torch.from_numpy(targets))
        if predicted is not None:
            self._spans += spans
            self._parts.append(predicted)

    def _tokens(self, span: Span) -> np.ndarray:
        request = self._requests[span.request]
        return request.ids[request.first + span.start : request.first + span.stop]

    def _predict(
        self, states: torch.Tensor, where: torch.Tensor, targets: torch.Tensor
    ) -> dict[str, torch.Tensor] | None:
        """Returns the wanted fields of the rows `where` (n,) of the step's hidden states (N, D).

        It returns None where another process of the tensor-parallel group gets the logits. Every process of that group
        calls it with the same rows, because `compute_logits` is a collective operation.
        """
        rows = states[where]  # (n, D)
        hidden = {"hidden": rows.float()} if self._want.hidden else {}
        if not needs_logits(self._want):
            return hidden
        size = self._rows_a_chunk(rows)
        chunks = []
        for chunk, part in zip(rows.split(size), targets.split(size), strict=True):
            logits = self._runner.model.compute_logits(chunk)  # (c, V)
            if logits is not None:
                chunks.append(predictions(logits, part.to(logits.device), self._want, self._generator))
        return {name: torch.cat([c[name] for c in chunks]) for name in chunks[0]} | hidden if chunks else None

    def _rows_a_chunk(self, rows: torch.Tensor) -> int:
        vocabulary = self._runner.model_config.get_vocab_size()
        return max(CHUNK_BYTES.get(rows.device.type, CHUNK_BYTES["cuda"]) // (4 * vocabulary), 1)


def _computed_before(scheduler_output: SchedulerOutput) -> Iterable[tuple[str, int]]:
    """Yields (request id, number of tokens in the cache before this step) for each of the step's requests."""
    cached = scheduler_output.scheduled_cached_reqs
    yield from zip(cached.req_ids, cached.num_computed_tokens, strict=True)
    for request in scheduler_output.scheduled_new_reqs:
        yield request.req_id, request.num_computed_tokens


def _positions(runner: ModelRunner, state: StepState) -> dict[str, int]:
    """Returns the index of each request's first row among the step's hidden states."""
    batch: StepBatch | None = getattr(state, "input_batch", None)
    # The starts (R + 1,) end with the total, and the buffer may be longer: so the zip is not strict.
    if batch is not None:  # vLLM's second model runner stores the batch with the step
        return dict(zip(batch.req_ids, batch.query_start_loc_np.tolist(), strict=False))
    starts = runner.query_start_loc.np
    return {request_id: int(starts[index]) for request_id, index in runner.input_batch.req_id_to_index.items()}


def predictions(
    logits: torch.Tensor, targets: torch.Tensor, want: Want, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    """Returns the wanted fields of each row, by the names of Scores' fields. A sample is drawn at temperature 1.

    Args:
        logits: (c, V) of any float type.
        targets: (c,) int64, the token that each row predicts.
    """
    fields: dict[str, torch.Tensor] = {}
    if not needs_distribution(want):
        return {"argmax_ids": argmax(logits)}
    logprobs = logits.log_softmax(-1, dtype=torch.float32)  # (c, V)
    if want.top_k:
        fields["topk_logprobs"], best = logprobs.topk(want.top_k)  # (c, k), best first
        fields["topk_ids"] = best.to(torch.int32)
    if want.argmax:  # among equally good ids the one that top-k puts first
        fields["argmax_ids"] = fields["topk_ids"][:, 0] if want.top_k else argmax(logits)
    if want.logprob:
        fields["logprobs"] = logprobs.gather(1, targets[:, None])[:, 0]  # (c,)
    if want.sample:
        fields["sampled_ids"] = draw(logprobs.exp(), generator)
    return fields


def draw(probabilities: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Returns (c,) int32, one drawn id for each row of (c, V).

        v = min {v : sum_{u <= v} p_u > U},   U uniform in [0, 1)

    A row takes one random number from the generator's own device. So the draws do not depend on the chunks of rows.
    """
    below = probabilities.cumsum(-1, dtype=torch.float64)  # (c, V): in float32 rare tokens would vanish
    uniform = torch.rand(len(below), 1, generator=generator, dtype=torch.float64, device=generator.device)
    # the last sum replaces 1: rounding leaves it a little off
    ids = torch.searchsorted(below, uniform.to(below.device) * below[:, -1:], right=True)[:, 0]
    return ids.clamp(max=below.shape[1] - 1).to(torch.int32)


def argmax(logits: torch.Tensor) -> torch.Tensor:
    """Returns (c,) int32, the first of the best ids of (c, V) logits."""
    # on a CPU numpy takes an eighth of torch's time
    if logits.is_cpu and logits.dtype == torch.float32:
        return torch.from_numpy(logits.numpy().argmax(-1).astype(np.int32))
    return logits.argmax(-1).to(torch.int32)
