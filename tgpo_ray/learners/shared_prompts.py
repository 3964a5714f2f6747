"""Each prompt once, and the responses on its keys and values.

The trunk runs twice. First it reads the prompts, with gradient, and fills a cache of keys and values. Then it reads the
responses on that cache. The last token of a prompt goes with each response, whose first token it predicts. So all
hidden states that a loss reads are of the second pass.

In both passes a row may hold several sequences, so that little is padding, and a mask keeps them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tgpo_ray.learners.side_by_side import Places, placed
from tgpo_ray.learners.tokens import Movable, TokenIds, concatenated

DUMMY = TokenIds(np.zeros(2, np.int64), np.zeros(1, np.int64))


@dataclass(frozen=True)
class Rows(Movable):
    """Sequences side by side in rows."""

    ids: Tensor  # (B, T) int64
    position_ids: Tensor  # (B, T) int64, from the first position of each sequence on
    owner: Tensor  # (B, T) int64, number of the sequence; -1 on padding
    alone: bool  # each row holds one sequence

    def own(self) -> Tensor:
        """(B, T, T) bool: what each token sees of its row, which are the tokens up to itself of its sequence."""
        causal = torch.ones(self.ids.shape[1], self.ids.shape[1], dtype=torch.bool, device=self.ids.device).tril()
        return (self.owner[:, :, None] == self.owner[:, None, :]) & causal


@dataclass(frozen=True)
class SharedPromptTokens(Movable):
    """The two passes. The trunk runs twice for any micro-batch, also the dummy: ranks meet in its collectives."""

    prompts: Rows
    responses: Rows
    cache_rows: Tensor  # (B,) int64, the row of the prompts behind each row of responses
    prompt_of: Tensor  # (B, T) int64, number of the prompt of each response token; -2 on padding
    row_index: Tensor  # (N,) int64 into the flat (B * T) positions of the responses
    is_plain: bool  # prompts of one length and a response in each row: a causal mask says all

    @classmethod
    def of(cls, sequences: Sequence[TokenIds]) -> SharedPromptTokens:
        counts = [len(ids.response) for ids in sequences]
        sequences = sequences or [DUMMY]
        prompts: dict[bytes, int] = {}
        owners = [prompts.setdefault(np.asarray(ids.prompt, np.int64).tobytes(), len(prompts)) for ids in sequences]
        heads = [np.frombuffer(key, np.int64)[:-1] for key in prompts]
        tails = [np.concatenate([ids.prompt[-1:], ids.response[:-1]]) for ids in sequences]
        lengths = np.asarray([len(head) for head in heads])
        above = placed(lengths)
        below = placed(np.asarray([len(tail) for tail in tails]), above.rows[owners])
        responses = _rows(tails, below, lengths[owners])
        prompt_of = np.append(owners, -2)[responses.owner.numpy()]  # the padding's -1 reads the last entry
        behind = np.zeros(len(responses.ids), np.int64)
        behind[below.rows] = above.rows[owners]
        starts = below.rows * below.width + below.offsets
        return cls(
            _rows(heads, above, np.zeros(len(heads), np.int64)),
            responses,
            torch.from_numpy(behind),
            torch.from_numpy(prompt_of),
            concatenated([start + np.arange(count) for start, count in zip(starts, counts, strict=False)]),
            bool((lengths == above.width).all()) and responses.alone,
        )

    def to(self, device: torch.device) -> SharedPromptTokens:
        moved: Any = super().to(device)
        return SharedPromptTokens(
            self.prompts.to(device), self.responses.to(device), moved.cache_rows, moved.prompt_of, moved.row_index,
            self.is_plain,
        )  # fmt: skip

    def states(self, trunk: Any) -> Tensor:
        from transformers import DynamicCache

        cache = DynamicCache()
        for rows, mask in ((self.prompts, None if self.prompts.alone else self.prompts.own()), self._second()):
            output = trunk(
                input_ids=rows.ids,
                attention_mask=_for_attention(mask, trunk),
                position_ids=rows.position_ids,
                past_key_values=cache,
                use_cache=True,
            )
            if rows is self.prompts:
                cache.batch_select_indices(self.cache_rows)
        return output.last_hidden_state.flatten(0, 1).index_select(0, self.row_index)  # (N, D)

    def _second(self) -> tuple[Rows, Tensor | None]:
        """The responses, and (B, T, P + T) bool what they see: their prompt in the cache, and their own tokens."""
        if self.is_plain:
            return self.responses, None
        prompt = self.prompts.owner[self.cache_rows][:, None, :] == self.prompt_of[:, :, None]  # (B, T, P)
        return self.responses, torch.cat([prompt, self.responses.own()], 2)


def _for_attention(mask: Tensor | None, trunk: Any) -> Tensor | None:
    """(B, 1, T, K) as the attention of the trunk takes it: bool, or 0 and a large negative number."""
    if mask is None:
        return None
    if trunk.config._attn_implementation != "eager":
        return mask[:, None]
    dtype = trunk.dtype
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill(~mask, torch.finfo(dtype).min)[:, None]


def _rows(sequences: Sequence[np.ndarray], places: Places, first_positions: np.ndarray) -> Rows:
    ids = np.zeros((places.num_rows, places.width), np.int64)
    positions, owner = np.zeros_like(ids), np.full_like(ids, -1)
    for number, (sequence, row, offset) in enumerate(zip(sequences, places.rows, places.offsets, strict=True)):
        span = slice(offset, offset + len(sequence))
        ids[row, span], owner[row, span] = sequence, number
        positions[row, span] = first_positions[number] + np.arange(len(sequence))
    alone = places.num_rows == len(sequences)
    return Rows(torch.from_numpy(ids), torch.from_numpy(positions), torch.from_numpy(owner), alone)
