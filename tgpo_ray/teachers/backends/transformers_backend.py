"""A teacher's model in plain transformers, in this process. It reads a prompt once a group and needs no vLLM."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from tgpo_ray.models import (
    Completion,
    EngineSpec,
    Sampling,
    Scores,
    ScoringRequest,
    Want,
    load_model,
    load_tokenizer,
    logit_transform,
)
from tgpo_ray.teachers.backends.chunked_head import Head, head_scores, split_scores
from tgpo_ray.teachers.backends.transformers_writer import Writer

if TYPE_CHECKING:
    from transformers import DynamicCache

Hidden = Iterator[tuple[list[int], Tensor]]  # (indices of requests, (N, D) hidden states of their rows)


class TransformersBackend:
    """A backend with one forward pass over each prompt and one over its responses, then the LM head chunk by chunk.

    Requests with equal prompts share the prompt's keys and values, and their responses are read on that cache. Requests
    with a prompt of their own are read whole, in batches. Responses are padded on the right, so no token attends to a
    padding position.

    Args:
        spec: the model to load. The fields about KV cache and engine concern only vLLM.
        gpu: use the CUDA device.
        token_budget: most tokens (prompts, responses and padding) of one forward pass. A longer sequence gets its own.
    """

    def __init__(self, spec: EngineSpec, *, gpu: bool = False, token_budget: int = 16384) -> None:
        from transformers import GenerationConfig

        if gpu and not torch.cuda.is_available():
            raise ValueError(f"teacher {spec.model!r} is to use a GPU, but torch sees none: num_gpus_per_replica: 0")
        self._device = torch.device("cuda" if gpu else "cpu")
        if gpu and spec.card_share < 1.0:  # torch then refuses more, as an engine of vLLM takes no more
            torch.cuda.set_per_process_memory_fraction(spec.card_share)
        self._budget = token_budget
        self.tokenizer: Any = load_tokenizer(
            spec.tokenizer or spec.model,
            trust_remote_code=spec.trust_remote_code,
            chat_template_kwargs=spec.chat_template_kwargs,
        )
        model = load_model(
            spec.model,
            dtype=getattr(torch, spec.dtype),
            hf_overrides=spec.hf_overrides,
            trust_remote_code=spec.trust_remote_code,
            section="teacher",
        )
        self._transform = logit_transform(model.config)
        self._model: Any = model.to(self._device).eval().requires_grad_(False)
        # otherwise a folder's sampling defaults, such as a repetition penalty, would leak into traces
        self._model.generation_config = GenerationConfig(eos_token_id=self._model.generation_config.eos_token_id)
        self._generator = torch.Generator(self._device).manual_seed(spec.seed)

    def score(self, requests: Sequence[ScoringRequest], want: Want) -> list[Scores]:
        self._check(requests)
        answers: dict[int, Scores] = {}
        with torch.inference_mode():
            for indices, hidden in self._hidden(requests):
                targets = np.concatenate([requests[i].ids[requests[i].first :] for i in indices])
                ids = torch.from_numpy(targets.astype(np.int64)).to(self._device)  # (N,)
                scores = head_scores(
                    self._head, hidden, ids, want, generator=self._generator, transform=self._transform
                )
                lengths = [_num_rows(requests[i]) for i in indices]
                answers.update(zip(indices, split_scores(scores, lengths), strict=True))
        return [answers[i] for i in range(len(requests))]

    @property
    def _head(self) -> Head:
        return self._model.get_output_embeddings()

    def _check(self, requests: Sequence[ScoringRequest]) -> None:
        """Check the requests here, because an id outside the vocabulary would end the GPU's context."""
        size = self._model.get_input_embeddings().num_embeddings
        for request in requests:
            if not 1 <= request.first <= len(request.ids):
                raise ValueError(f"`first` must be in 1..{len(request.ids)}, got {request.first}: no token precedes it")
            if request.ids.min() < 0 or request.ids.max() >= size:
                raise ValueError(
                    f"ids must be in [0, {size}), the teacher's own, got {request.ids.min()}..{request.ids.max()}: map "
                    "the policy's ids to the teacher's vocabulary first"
                )

    def _hidden(self, requests: Sequence[ScoringRequest]) -> Hidden:
        """Yields (indices of requests, (N, D) hidden states that predict their scored tokens), in batches."""
        by_prompt: dict[bytes, list[int]] = {}
        for index, request in enumerate(requests):
            by_prompt.setdefault(np.asarray(request.ids[: request.first], np.int32).tobytes(), []).append(index)
        single = [indices[0] for indices in by_prompt.values() if len(indices) == 1]
        for indices in by_prompt.values():
            if len(indices) > 1:
                yield from self._shared(requests, indices)
        for batch in self._batches({index: len(requests[index].ids) for index in single}):
            yield batch, self._whole([requests[index] for index in batch])

    def _batches(self, lengths: dict[int, int]) -> Iterator[list[int]]:
        """Yields batches of indices, longest first, whose tokens with padding stay within the budget."""
        batch: list[int] = []
        for index in sorted(lengths, key=lengths.__getitem__, reverse=True):
            if batch and (len(batch) + 1) * lengths[batch[0]] > self._budget:
                yield batch
                batch = []
            batch.append(index)
        if batch:
            yield batch

    def _whole(self, requests: Sequence[ScoringRequest]) -> Tensor:
        """Returns (N, D), with every sequence read from its first token on."""
        hidden = self._forward(
            [request.ids[: max(1, len(request.ids) - 1)] for request in requests]
        ).last_hidden_state  # (B, T, D)
        # position t predicts token t + 1: rows `first - 1` to `M - 2`
        pieces = [row[request.first - 1 : len(request.ids) - 1] for row, request in zip(hidden, requests, strict=True)]
        return torch.cat(pieces)

    def _shared(self, requests: Sequence[ScoringRequest], indices: list[int]) -> Hidden:
        """Yields the states of requests with one prompt. Its keys and values are computed once and repeated a batch."""
        prompt = requests[indices[0]].ids[: requests[indices[0]].first]  # (P,)
        output = self._forward([prompt], use_cache=True)
        last = output.last_hidden_state[0, -1:]  # (1, D), predicts the first token of every response
        shares = _can_repeat(output.get("past_key_values"))
        for batch in self._batches({index: len(requests[index].ids) for index in indices}):
            if shares:
                responses = [requests[index].ids[len(prompt) :] for index in batch]
                yield batch, self._continued(output.past_key_values, last, responses)
            else:
                yield batch, self._whole([requests[index] for index in batch])

    def _continued(self, cache: DynamicCache, last: Tensor, responses: Sequence[np.ndarray]) -> Tensor:
        """Returns (N, D): for each response the prompt's last state and those of all but its last token."""
        if max(map(len, responses)) <= 1:
            return torch.cat([last[: len(response)] for response in responses])
        cache = copy.deepcopy(cache)  # a forward pass appends to its cache
        cache.batch_repeat_interleave(len(responses))  # in place: (1, heads, P, head) to (B, heads, P, head)
        hidden = self._forward([response[:-1] for response in responses], cache=cache, use_cache=True)
        rows = hidden.last_hidden_state  # (B, T - 1, D)
        return torch.cat(
            [
                torch.cat([last, row[: len(response) - 1]]) if len(response) else last[:0]
                for row, response in zip(rows, responses, strict=True)
            ]
        )

    def _forward(
        self, sequences: Sequence[np.ndarray], *, cache: DynamicCache | None = None, use_cache: bool = False
    ) -> Any:
        """Returns the trunk's output for sequences padded on the right to the longest."""
        ids = np.zeros((len(sequences), max(map(len, sequences))), np.int64)  # (B, T)
        for row, sequence in zip(ids, sequences, strict=True):
            row[: len(sequence)] = sequence
        # no attention mask: attention is causal and the padding comes last
        inputs = torch.from_numpy(ids).to(self._device)
        return self._model.base_model(input_ids=inputs, past_key_values=cache, use_cache=use_cache)

    def generate(self, prompts: Sequence[Sequence[int]], sampling: Sampling, *, n: int = 1) -> list[list[Completion]]:
        """Returns n responses to each prompt, drawn with this backend's seed."""
        writer = Writer(self._model, self.tokenizer, sampling, self._generator)
        rows = [ids for ids in prompts for _ in range(n)]
        written: dict[int, np.ndarray] = {}
        for batch in self._batches({i: len(ids) + sampling.max_tokens for i, ids in enumerate(rows)}):
            written.update(zip(batch, writer.write([rows[i] for i in batch]), strict=True))
        logprobs = self._sampled_logprobs(rows, written, sampling) if sampling.logprobs else {}
        completions = [
            Completion(written[i], logprobs.get(i), writer.stop_reason(written[i])) for i in range(len(rows))
        ]
        return [completions[i : i + n] for i in range(0, len(completions), n)]

    def _sampled_logprobs(
        self, prompts: Sequence[Sequence[int]], written: dict[int, np.ndarray], sampling: Sampling
    ) -> dict[int, np.ndarray]:
        """Returns (T,) log-probs of each response, under the distribution that drew it. Greedy ones use temperature 1.

        The responses are read again through the chunked head, because `generate` would store every token's logits.
        """
        requests = [
            ScoringRequest(np.concatenate([np.asarray(ids, np.int32), written[i]]), len(ids))
            for i, ids in enumerate(prompts)
        ]
        logprobs: dict[int, np.ndarray] = {}
        with torch.inference_mode():
            for indices, hidden in self._hidden(requests):  # hidden: (N, D)
                ids = torch.from_numpy(np.concatenate([written[i] for i in indices]).astype(np.int64))
                temperature = sampling.temperature or 1.0
                scores = head_scores(
                    self._head,
                    hidden,
                    ids.to(self._device),
                    Want(logprob=True),
                    temperature=temperature,
                    transform=self._transform,
                )
                for index, part in zip(indices, split_scores(scores, [len(written[i]) for i in indices]), strict=True):
                    assert part.logprobs is not None
                    logprobs[index] = part.logprobs
        return logprobs

    def stop(self) -> None:
        """Do nothing, because the model ends with its process."""


def _num_rows(request: ScoringRequest) -> int:
    return len(request.ids) - request.first


def _can_repeat(cache: object) -> bool:
    """Returns whether the cache has only keys and values, which can be repeated for each response.

    The recurrent states of other layers cannot be repeated.
    """
    from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

    layers = getattr(cache, "layers", None)
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers or ())
