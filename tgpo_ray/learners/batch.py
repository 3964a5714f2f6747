"""Micro-batches made of episodes: which rank trains on which episodes, and the flat tensors that the loss reads.

The driver plans the micro-batches from the lengths of the episodes. A learner's rank fetches the tokens and builds the
tensors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tgpo_ray.episode import Episode, Guidance
from tgpo_ray.kernels import TokenLoss, TokenRows

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


@dataclass(frozen=True)
class Piece:
    """Some episodes of one group, as a rank receives them. It holds references and never tokens."""

    ordinal: int  # of the group; (ordinal, index of an episode) is unique within an iteration
    ref: Any  # ObjectRef of the EpisodeGroup (or the group itself)
    guidance: Mapping[str, Any]  # scorer -> ObjectRef of list[Guidance]
    advantages: np.ndarray  # (G,) float32, of the whole group
    members: tuple[int, ...]  # indices of the group's episodes that are trained on

    def cost(self, lengths: Sequence[int]) -> int:
        """Number of padded tokens that these episodes take by themselves."""
        return len(self.members) * max(lengths[i] for i in self.members)


MicroBatch = list[Piece]
EpisodeKey = tuple[int, int]
"""(ordinal of the group, index of the episode in the group)."""


def plan_micro_batches(
    pieces: Sequence[Piece], lengths: Mapping[int, Sequence[int]], num_ranks: int, token_budget: int
) -> list[list[MicroBatch]]:
    """Returns the micro-batches as [rank][step]; every rank gets the same number of steps.

    A micro-batch holds at most `token_budget` padded tokens. A group stays whole if it fits. Otherwise its episodes are
    sorted by length and split. The longest piece goes first, to the rank with the fewest tokens so far.

    A micro-batch may be empty. A rank with nothing left still has to join the collectives of the other ranks.

    Args:
        pieces: whole groups.
        lengths: for each ordinal, prompt + response tokens of each of its episodes.
    """
    parts = [part for piece in pieces for part in _split(piece, lengths[piece.ordinal], token_budget)]
    parts.sort(key=lambda piece: -piece.cost(lengths[piece.ordinal]))
    ranks: list[list[Piece]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for piece in parts:
        rank = loads.index(min(loads))
        ranks[rank].append(piece)
        loads[rank] += sum(lengths[piece.ordinal][i] for i in piece.members)
    packed = [_pack(rank, lengths, token_budget) for rank in ranks]
    steps = max(map(len, packed))
    # a collective hangs unless every rank calls it, so shorter plans are padded with empty micro-batches
    return [micro_batches + [[] for _ in range(steps - len(micro_batches))] for micro_batches in packed]


def _split(piece: Piece, lengths: Sequence[int], token_budget: int) -> list[Piece]:
    """Pieces of at most `token_budget` padded tokens; a single episode above the budget is a piece of its own."""
    members = sorted(piece.members, key=lambda i: -lengths[i])
    parts: list[list[int]] = []
    for i in members:  # the longest is first, so its length is the padded width of the whole part
        if parts and lengths[parts[-1][0]] * (len(parts[-1]) + 1) <= token_budget:
            parts[-1].append(i)
        else:
            parts.append([i])
    return [Piece(piece.ordinal, piece.ref, piece.guidance, piece.advantages, tuple(sorted(part))) for part in parts]


def _pack(pieces: Sequence[Piece], lengths: Mapping[int, Sequence[int]], token_budget: int) -> list[MicroBatch]:
    """Micro-batches by first fit. `pieces` come longest first, so a micro-batch has similar widths."""
    bins: list[tuple[int, int, MicroBatch]] = []  # width, sequences, pieces
    for piece in pieces:
        width = max(lengths[piece.ordinal][i] for i in piece.members)
        for at, (bin_width, count, content) in enumerate(bins):
            if max(bin_width, width) * (count + len(piece.members)) <= token_budget:
                bins[at] = (max(bin_width, width), count + len(piece.members), [*content, piece])
                break
        else:
            bins.append((width, len(piece.members), [piece]))
    return [content for _, _, content in bins]


@dataclass(frozen=True)
class TrainBatch:
    """One micro-batch on a rank: the input of the trunk, and the positions of the response rows in it."""

    input_ids: Tensor  # (B, T) int64, right-padded
    attention_mask: Tensor  # (B, T) int64
    row_index: Tensor  # (N,) int64 into the flat (B * T) positions; the hidden state there predicts a response token
    rows: TokenRows
    keys: tuple[EpisodeKey, ...]  # (B,) one for each sequence


class TrainEpisode(NamedTuple):
    """One episode as a rank trains on it."""

    key: EpisodeKey
    episode: Episode
    guidance: Mapping[str, Guidance]  # by scorer
    advantage: float


def build_batch(
    episodes: Sequence[TrainEpisode],
    loss: TokenLoss,
    old_logprobs: Mapping[EpisodeKey, np.ndarray] | None,
    device: torch.device,
) -> TrainBatch:
    """Returns the padded sequences for the trunk, and everything else as one row for each response token.

    Args:
        episodes: one for each sequence. Without episodes the batch is one dummy token and no rows, so that a rank with
            nothing to do still runs forward and backward.
        loss: names the guidance that becomes targets and the guidance that becomes extra rows.
        old_logprobs: (T,) for each key, or None if the ratio is one.
    """
    counts = np.asarray([len(it.episode.response_ids) for it in episodes], np.int64)  # (B,), sums to N
    width = max((len(it.episode.prompt_ids) + len(it.episode.response_ids) for it in episodes), default=1)
    ids = np.zeros((max(len(episodes), 1), width), np.int64)  # (B, T)
    attention = np.zeros_like(ids)  # (B, T)
    attention[:, 0] = 1  # a row of zeros gives softmax over nothing, which is NaN: the dummy token must be visible
    row_index: list[np.ndarray] = []
    for b, (_, episode, _, _) in enumerate(episodes):
        start, stop = len(episode.prompt_ids), len(episode.prompt_ids) + len(episode.response_ids)
        ids[b, :start], ids[b, start:stop] = episode.prompt_ids, episode.response_ids
        attention[b, :stop] = 1
        row_index.append(b * width + np.arange(start - 1, stop - 1))  # the logits at t - 1 predict token t
    rows = _token_rows(episodes, counts, loss, old_logprobs)
    move = {"device": device, "non_blocking": True}
    return TrainBatch(
        torch.from_numpy(ids).to(**move),
        torch.from_numpy(attention).to(**move),
        torch.from_numpy(_concat(row_index, np.int64)).to(**move),
        rows.to(device),
        tuple(it.key for it in episodes),
    )


def _token_rows(
    episodes: Sequence[TrainEpisode],
    counts: np.ndarray,
    loss: TokenLoss,
    old_logprobs: Mapping[EpisodeKey, np.ndarray] | None,
) -> TokenRows:
    """The rows of all episodes one after the other; `counts` (B,) is the number of rows of each episode."""
    ids = _target_ids(episodes, loss)  # (N, K)
    masks = [np.isin(it.episode.origin, loss.trained_origins) for it in episodes]
    trained = _concat(masks, np.bool_)  # (N,)
    mask = ((ids >= 0) & trained[:, None]).astype(np.float32)  # (N, K)
    old = None if old_logprobs is None else _concat([old_logprobs[it.key] for it in episodes], np.float32)
    # NaN where a scorer failed: 0.0 would be the log-probability of a certain token, and NaN shows if a loss uses it
    extra = {name: _concat(_scored(episodes, name, np.nan), np.float32) for name in loss.row_fields}
    return TokenRows(
        targets=torch.from_numpy(np.maximum(ids, 0)),  # -1 is no valid index of `gather`; the mask hides the 0
        target_mask=torch.from_numpy(mask),
        advantages=torch.from_numpy(np.repeat(np.asarray([it.advantage for it in episodes], np.float32), counts)),
        old_logprobs=None if old is None else torch.from_numpy(old),
        sequence=torch.from_numpy(np.repeat(np.arange(len(episodes)), counts)),
        lengths=torch.from_numpy(np.repeat(np.asarray([mask.sum() for mask in masks], np.float32), counts)),
        extra={name: torch.from_numpy(values) for name, values in extra.items()},
    )


def _target_ids(episodes: Sequence[TrainEpisode], loss: TokenLoss) -> np.ndarray:
    """(N, K) int64: the sampled token, then the columns of `loss.targets`. -1 where a scorer has no token."""
    columns = [_concat([it.episode.response_ids for it in episodes], np.int64)[:, None]]  # (N, 1)
    for name in loss.targets:
        values = _concat(_scored(episodes, name, -1), np.int64)  # (N,), or (N, k) for top-k targets
        columns.append(values if values.ndim == 2 else values[:, None])
    return np.concatenate(columns, axis=1)


def _scored(episodes: Sequence[TrainEpisode], name: str, missing: float) -> list[np.ndarray]:
    """`scorer.field` of each episode, (T,) or (T, k). It is all `missing` where the scorer failed.

    `episode.field` is an attribute of the episode itself.

    Raises:
        ValueError: the answer of a scorer has another length than the response.
    """
    answers = [_field(it.episode, it.guidance, name) for it in episodes]
    # () or (k,): a failed scorer's rows need the width of the others, or the columns do not concatenate
    width = next((values.shape[1:] for values in answers if values is not None), ())
    return [
        np.full((len(it.episode.response_ids), *width), missing) if values is None else values
        for values, it in zip(answers, episodes, strict=True)
    ]


def _field(episode: Episode, guidance: Mapping[str, Guidance], name: str) -> np.ndarray | None:
    scorer, _, attribute = name.partition(".")
    length = len(episode.response_ids)
    if scorer == "episode":  # an attribute is one number for all tokens, or (T,)
        return np.broadcast_to(np.asarray(getattr(episode, attribute)), length)
    values = getattr(guidance[scorer], attribute) if scorer in guidance else None
    if values is not None and len(values) != length:
        raise ValueError(
            f"scorer {scorer!r} returned {len(values)} positions for a response of {length} tokens: "
            "its answer is misaligned and must not be trained on"
        )
    return values


def _concat(parts: Sequence[np.ndarray], dtype: DTypeLike) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype)
