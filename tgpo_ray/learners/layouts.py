"""What the trunk reads of a micro-batch: sequences that are padded, packed end to end, or behind shared prompts.

Hidden states, losses and gradients are the same in each. The class of a layout builds its tensors on the host, and
`states` calls the trunk with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgpo_ray.learners.shared_prompts import SharedPromptTokens
from tgpo_ray.learners.tokens import Layout, Movable, TokenIds, Tokens, concatenated


@dataclass(frozen=True)
class PaddedTokens(Movable):
    """Sequences on the left of a row each. The trunk gets no mask: behind a causal one no token sees the padding."""

    input_ids: Tensor  # (B, T) int64
    row_index: Tensor  # (N,) int64 into the flat (B * T) positions; the state there predicts a response token

    @classmethod
    def of(cls, sequences: Sequence[TokenIds]) -> PaddedTokens:
        whole = _whole(sequences)
        ids = np.zeros((len(whole), max(map(len, whole))), np.int64)
        for row, sequence in zip(ids, whole, strict=True):
            row[: len(sequence)] = sequence
        return cls(torch.from_numpy(ids), _response_rows(sequences, np.arange(len(whole)) * ids.shape[1]))

    def states(self, trunk: Any) -> Tensor:
        hidden = trunk(input_ids=self.input_ids, use_cache=False).last_hidden_state  # (B, T, D)
        return hidden.flatten(0, 1).index_select(0, self.row_index)


@dataclass(frozen=True)
class PackedTokens(Movable):
    """Sequences end to end in one row. Positions begin again at each, from which transformers tells them apart."""

    input_ids: Tensor  # (1, T) int64
    position_ids: Tensor  # (1, T) int64
    bounds: Tensor  # (B + 1,) int32, 0 and the end of each sequence, as the kernels of flash attention take them
    longest: int
    row_index: Tensor  # (N,) int64

    @classmethod
    def of(cls, sequences: Sequence[TokenIds]) -> PackedTokens:
        whole = _whole(sequences)
        lengths = np.asarray([len(ids) for ids in whole])
        ends = np.concatenate([[0], lengths.cumsum()])
        return cls(
            concatenated(whole)[None],
            concatenated([np.arange(length) for length in lengths])[None],
            torch.from_numpy(ends.astype(np.int32)),
            int(lengths.max()),
            _response_rows(sequences, ends),
        )

    def states(self, trunk: Any) -> Tensor:
        options: dict[str, Any] = {}
        if "flash" in (trunk.config._attn_implementation or ""):  # else each layer reads the bounds from the positions
            options |= {"cu_seq_lens_q": self.bounds, "cu_seq_lens_k": self.bounds}
            options |= {"max_length_q": self.longest, "max_length_k": self.longest}
        output = trunk(input_ids=self.input_ids, position_ids=self.position_ids, use_cache=False, **options)
        return output.last_hidden_state[0].index_select(0, self.row_index)


LAYOUTS: dict[Layout, type[Tokens]] = {
    "padded": PaddedTokens,
    "packed": PackedTokens,
    "shared_prompt": SharedPromptTokens,
}


def _whole(sequences: Sequence[TokenIds]) -> list[np.ndarray]:
    return [np.concatenate(ids) for ids in sequences] or [np.zeros(1, np.int64)]


def _response_rows(sequences: Sequence[TokenIds], starts: np.ndarray) -> Tensor:
    """(N,) int64: the positions before each response token, of sequences that begin at `starts`."""
    return concatenated(
        [
            start + np.arange(len(prompt) - 1, len(prompt) + len(response) - 1)  # the logits at t - 1 predict token t
            for (prompt, response), start in zip(sequences, starts, strict=False)
        ]
    )
