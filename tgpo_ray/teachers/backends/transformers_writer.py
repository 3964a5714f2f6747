"""Traces by transformers' `generate`, with prompts padded on the left and responses cut at their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch

from tgpo_ray.models import Sampling, Tokenizer

if TYPE_CHECKING:
    from transformers import GenerationConfig


class CausalModel(Protocol):
    """A causal model of transformers with `generate`."""

    generation_config: Any
    generate: Any


class Writer:
    """A writer of one response to each prompt of a batch.

    Args:
        model: a causal model of transformers whose generation config names only its ends of sequence.
        generator: source of each batch's seed, on the model's device.

    Raises:
        ValueError: log-probs are wanted with top_p < 1, which leaves tokens outside the nucleus without one.
    """

    def __init__(
        self, model: CausalModel, tokenizer: Tokenizer, sampling: Sampling, generator: torch.Generator
    ) -> None:
        if sampling.logprobs and sampling.top_p < 1.0:
            raise ValueError(f"log-probs need top_p 1.0, got {sampling.top_p:g}: they are of the whole vocabulary")
        self._model, self._tokenizer, self._sampling, self._generator = model, tokenizer, sampling, generator
        eos = model.generation_config.eos_token_id
        eos = tokenizer.eos_token_id if eos is None else eos
        self._eos_ids = [] if eos is None else [eos] if isinstance(eos, int) else list(eos)
        # fills a row after its end; it must be no end of sequence, which `_cut` would read as one
        self._pad_id = next(i for i in range(len(self._eos_ids) + 1) if i not in self._eos_ids)

    def write(self, prompts: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Returns (T,) int32 for each prompt, up to a stop text or its end of sequence, that token included."""
        width = max(map(len, prompts))
        ids = np.full((len(prompts), width), self._pad_id, np.int64)  # (B, P)
        mask = np.zeros_like(ids)  # (B, P)
        for i, prompt in enumerate(prompts):
            ids[i, width - len(prompt) :], mask[i, width - len(prompt) :] = prompt, 1
        device = self._generator.device
        # `generate` takes no generator and draws from the global ones
        seed = int(torch.randint(2**62, (), generator=self._generator, device=device))
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            output = self._model.generate(
                torch.from_numpy(ids).to(device),
                attention_mask=torch.from_numpy(mask).to(device),
                generation_config=self._configuration(),
                tokenizer=self._tokenizer if self._sampling.stop else None,
            )
        return [self._cut(row[width:].astype(np.int32)) for row in output.cpu().numpy()]

    def _configuration(self) -> GenerationConfig:
        from transformers import GenerationConfig

        sampling = self._sampling
        draws = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
        return GenerationConfig(
            max_new_tokens=sampling.max_tokens,
            eos_token_id=self._eos_ids or None,
            pad_token_id=self._pad_id,
            stop_strings=list(sampling.stop) or None,
            **(draws if sampling.temperature > 0.0 else {"do_sample": False}),
        )

    def _cut(self, ids: np.ndarray) -> np.ndarray:
        """Returns the ids (T,) up to the first end of sequence or stop text."""
        ends = np.flatnonzero(np.isin(ids, self._eos_ids))
        ids = ids[: ends[0] + 1] if len(ends) else ids
        if not self._has_stop_text(ids):
            return ids
        low, high = 1, len(ids)  # bisection for the shortest prefix that contains a stop text
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if self._has_stop_text(ids[:middle]) else (middle + 1, high)
        return ids[:low]

    def _has_stop_text(self, ids: np.ndarray) -> bool:
        if not self._sampling.stop:
            return False
        text = self._tokenizer.decode(ids)
        return any(stop in text for stop in self._sampling.stop)

    def stop_reason(self, ids: np.ndarray) -> str:
        """Returns `stop` after an end of sequence or a stop text, else `length`."""
        ended = len(ids) > 0 and int(ids[-1]) in self._eos_ids
        return "stop" if ended or self._has_stop_text(ids) else "length"
