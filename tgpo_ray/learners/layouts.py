"""How the sequences of a micro-batch lie before the trunk: padded, packed end to end, or behind a shared prompt.

Hidden states, losses and gradients are the same in each. The class of a layout builds its tensors on the host, and
`states` calls the trunk with them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

Layout = Literal["padded", "packed", "shared_prompt"]


class TokenIds(NamedTuple):
    """One sequence."""

    prompt: np.ndarray  # (P,) int, at least one token
    response: np.ndarray  # (R,) int


class Tokens(Protocol):
    """The tokens of B sequences in a layout, with N response tokens in all."""

    @classmethod
    def of(cls, sequences: Sequence[TokenIds]) -> Self:
        """Returns the tokens on the CPU. Without sequences they are a dummy, so that the trunk can run."""
        ...

    def to(self, device: torch.device) -> Self: ...

    def states(self, trunk: Any) -> Tensor:
        """Returns (N, D) final hidden states, each at the position before its response token."""
        ...


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns the tensor on the device. The host does not wait for the copy to a GPU, which pinned memory allows."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


class _Movable:
    """A dataclass of tensors and plain numbers."""

    def to(self, device: torch.device) -> Self:
        values = {field.name: getattr(self, field.name) for field in fields(self)}  # pyright: ignore[reportArgumentType]
        return type(self)(**{k: moved(v, device) if isinstance(v, Tensor) else v for k, v in values.items()})


@dataclass(frozen=True)
class PaddedTokens(_Movable):
    """Sequences on the left of a row each. The trunk gets no mask: behind a causal one no token sees the padding."""

    input_ids: Tensor  # (B, T) int64
    row_index: Tensor  # (N,) int64 into the flat (B * T) positions; the state there predicts a response token

    @classmethod
    def of(cls, sequences: Sequence[TokenIds]) -> PaddedTokens:
        whole = [np.concatenate(ids) for ids in sequences] or [np.zeros(1)]
        padded = _padded(whole)
        starts = np.arange(len(sequences)) * padded.shape[1]
        return cls(torch.from_numpy(padded), _response_rows(sequences, starts))

    def states(self, trunk: Any) -> Tensor:
        hidden = trunk(input_ids=self.input_ids, use_cache=False).last_hidden_state  # (B, T, D)
        return hidden.flatten(0, 1).index_select(0, self.row_index)


@dataclass(frozen=True)
class PackedTokens(_Movable):
    """Sequences end to end in one row. Positions begin again at each, from which transformers tells them apart."""

    input_ids: Tensor  # (1, T) int64
    position_ids: Tensor  # (1, T) int64
    bounds: Tensor  # (B + 1,) int32, 0 and the end of each sequence, as the kernels of flash attention take them
    longest: int
    row_index: Tensor  # (N,) int64

    @classmethod
    def of(cls, sequences: Sequence[TokenIds]) -> PackedTokens:
        whole = [np.concatenate(ids) for ids in sequences] or [np.zeros(1)]
        lengths = np.asarray([len(ids) for ids in whole])
        ends = np.concatenate([[0], lengths.cumsum()])
        return cls(
            torch.from_numpy(np.concatenate(whole).astype(np.int64)[None]),
            torch.from_numpy(np.concatenate([np.arange(length) for length in lengths])[None]),
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


@dataclass(frozen=True)
class SharedPromptTokens(_Movable):
    """Each distinct prompt once, and the responses on its keys and values.

    The last token of the prompt goes with the response, whose first token it predicts. So all rows are in the second
    pass, and of the first only keys and values are used. The trunk runs twice for any micro-batch, the dummy too:
    ranks meet in the collectives of its modules.
    """

    prompt_ids: Tensor  # (m, P) int64, without the last token of each
    prompt_index: Tensor  # (B,) int64, the prompt of each sequence
    input_ids: Tensor  # (B, R) int64: the last token of the prompt, and the response without its last token
    position_ids: Tensor  # (B, R) int64
    attention_mask: Tensor | None  # (B, P + R) int64: 0 on the padding of prompts; None where there is none
    row_index: Tensor  # (N,) int64 into the flat (B * R) positions

    @classmethod
    def of(cls, sequences: Sequence[TokenIds]) -> SharedPromptTokens:
        dummy = TokenIds(np.zeros(2, np.int64), np.zeros(1, np.int64))
        counts = [len(ids.response) for ids in sequences]
        sequences = sequences or [dummy]
        prompts: dict[bytes, int] = {}
        owners = [prompts.setdefault(np.asarray(ids.prompt, np.int64).tobytes(), len(prompts)) for ids in sequences]
        heads = [np.frombuffer(key, np.int64)[:-1] for key in prompts]
        lengths = np.asarray([len(head) for head in heads])[owners]  # (B,)
        prompt_ids = _padded(heads)
        input_ids = _padded([np.concatenate([ids.prompt[-1:], ids.response[:-1]]) for ids in sequences])
        visible = np.arange(prompt_ids.shape[1]) < lengths[:, None]  # (B, P)
        mask = None if visible.all() else np.concatenate([visible, np.ones_like(input_ids)], 1).astype(np.int64)
        width = input_ids.shape[1]
        rows = [b * width + np.arange(count) for b, count in enumerate(counts)]
        return cls(
            torch.from_numpy(prompt_ids),
            torch.from_numpy(np.asarray(owners)),
            torch.from_numpy(input_ids),
            torch.from_numpy(lengths[:, None] + np.arange(width)),
            None if mask is None else torch.from_numpy(mask),
            torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *rows])),
        )

    def states(self, trunk: Any) -> Tensor:
        from transformers import DynamicCache

        cache = DynamicCache()
        trunk(input_ids=self.prompt_ids, past_key_values=cache, use_cache=True)
        cache.batch_select_indices(self.prompt_index)
        output = trunk(
            input_ids=self.input_ids,
            attention_mask=self.attention_mask,
            position_ids=self.position_ids,
            past_key_values=cache,
            use_cache=True,
        )
        return output.last_hidden_state.flatten(0, 1).index_select(0, self.row_index)  # (N, D)


LAYOUTS: dict[Layout, type[Tokens]] = {
    "padded": PaddedTokens,
    "packed": PackedTokens,
    "shared_prompt": SharedPromptTokens,
}


def _padded(sequences: Sequence[np.ndarray]) -> np.ndarray:
    """(B, T) int64: each sequence on the left of its row, then zeros; T is at least 1."""
    ids = np.zeros((len(sequences), max(1, *map(len, sequences))), np.int64)
    for row, sequence in zip(ids, sequences, strict=True):
        row[: len(sequence)] = sequence
    return ids


def _response_rows(sequences: Sequence[TokenIds], starts: Sequence[int] | np.ndarray) -> Tensor:
    """(N,) int64: the positions before each response token, of sequences that begin at `starts`."""
    rows = [
        start + np.arange(len(prompt) - 1, len(prompt) + len(response) - 1)  # the logits at t - 1 predict token t
        for (prompt, response), start in zip(sequences, starts, strict=False)
    ]
    return torch.from_numpy(np.concatenate([np.zeros(0, np.int64), *rows]).astype(np.int64))
