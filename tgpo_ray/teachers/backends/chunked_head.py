"""The scores of an LM head, chunk by chunk, without a (tokens, vocabulary) tensor. It needs only torch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from tgpo_ray.kernels import CPU_CHUNK_BYTES, CUDA_CHUNK_BYTES, PLAIN, LogitTransform, matmul_into
from tgpo_ray.models import Scores, Want, draw


class Head(Protocol):
    """An LM head, which is torch's Linear or a model's own module in its place."""

    @property
    def weight(self) -> Tensor: ...  # (V, D)


def head_scores(
    head: Head,
    hidden: Tensor,
    targets: Tensor,
    want: Want,
    *,
    generator: torch.Generator | None = None,
    temperature: float = 1.0,
    transform: LogitTransform = PLAIN,
    chunk_bytes: int | None = None,
) -> Scores:
    """Returns the scores of N rows, in float32 for every precision of the model.

        z = transform(h W^T + b) / temperature,   log p = z - logsumexp(z),   sample ~ softmax(z)

    Args:
        head: the LM head, which may have a `bias` (V,).
        hidden: (N, D) final hidden states, each of the position before its target.
        targets: (N,) int64, the tokens at those positions. Only `logprob` reads them.
        generator: random generator of the draws. `sample` needs it.
        transform: what the model does to the head's logits.
        chunk_bytes: size of the logits buffer. None means that of the fused loss.

    Raises:
        ValueError: `topk:k` wants more tokens than the vocabulary has.
    """
    size = head.weight.shape[0]
    if want.top_k > size:
        raise ValueError(f"topk:{want.top_k} needs at least that many tokens, the teacher's vocabulary has {size}")
    parts: dict[str, list[Tensor]] = {}
    # each chunk's fields leave for the CPU before the next chunk overwrites the logits
    for rows, logits in _chunks(head, hidden, temperature, transform, chunk_bytes):
        for name, values in _scored(logits, targets[rows], want, generator).items():
            parts.setdefault(name, []).append(values.cpu())
    if want.hidden:
        parts["hidden"] = [hidden.float().cpu()]
    return Scores(**{name: torch.cat(values).numpy() for name, values in parts.items()})


def _chunks(
    head: Head, hidden: Tensor, temperature: float, transform: LogitTransform, chunk_bytes: int | None
) -> Iterator[tuple[slice, Tensor]]:
    """Yields (rows, logits (n, V)) of every chunk. All chunks share one buffer, so the next one overwrites it."""
    weight, bias = head.weight, getattr(head, "bias", None)
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    budget = chunk_bytes or (CUDA_CHUNK_BYTES if hidden.is_cuda else CPU_CHUNK_BYTES)
    num_rows = max(1, min(len(hidden), budget // (weight.shape[0] * dtype.itemsize)))
    # The fused loss has a buffer too, but autograd rejects a tensor that inference mode made.
    buffer = torch.empty(num_rows, weight.shape[0], dtype=dtype, device=hidden.device)  # (n, V)
    for start in range(0, max(1, len(hidden)), num_rows):  # without rows one empty chunk gives the empty fields
        rows = slice(start, min(start + num_rows, len(hidden)))
        logits = buffer[: rows.stop - start]
        matmul_into(logits, hidden[rows], weight.t())
        if bias is not None:
            logits.add_(bias)
        if transform.divisor(temperature) != 1.0:
            logits.div_(transform.divisor(temperature))
        yield rows, transform.cap_(logits, temperature)


def _scored(logits: Tensor, targets: Tensor, want: Want, generator: torch.Generator | None) -> dict[str, Tensor]:
    """Returns the wanted fields of Scores for (n, V) logits. Each pass over the logits serves a wanted field."""
    fields: dict[str, Tensor] = {}
    # (n, 1). A shift of a whole row changes neither its best token nor its draws.
    normalizer = logits.logsumexp(-1, keepdim=True) if want.logprob or want.top_k else None
    if want.argmax:
        fields["argmax_ids"] = logits.argmax(-1).int()  # (n,)
    if want.logprob and normalizer is not None:
        fields["logprobs"] = (logits.gather(1, targets[:, None]) - normalizer)[:, 0]
    if want.top_k and normalizer is not None:
        values, ids = logits.topk(want.top_k)  # (n, k), best first
        fields["topk_ids"], fields["topk_logprobs"] = ids.int(), values - normalizer
    if want.sample:
        assert generator is not None, "drawing needs a generator"
        fields["sampled_ids"] = draw(logits.softmax(-1), generator)
    return fields


def split_scores(scores: Scores, lengths: Sequence[int]) -> list[Scores]:
    """Returns one Scores a request, from the scores of consecutive requests with these numbers of rows."""
    bounds = np.cumsum([0, *lengths])  # (B + 1,)

    def part(values: np.ndarray | None, index: int) -> np.ndarray | None:
        return None if values is None else values[bounds[index] : bounds[index + 1]]

    return [Scores(**{name: part(values, i) for name, values in vars(scores).items()}) for i in range(len(lengths))]
