"""Episodes to micro-batches: who trains on what, and the flat tensors that the loss sees.

Planning happens on the driver from the lengths; building happens on the learner's rank, which fetches the tokens.
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
    """Some episodes of one group, as a rank receives them: references, never tokens."""

    ordinal: int  # the group's; with an episode's index it names that episode within an iteration
    ref: Any  # ObjectRef of the EpisodeGroup (or the group itself)
    guidance: Mapping[str, Any]  # scorer -> ObjectRef of list[Guidance]
    advantages: np.ndarray  # (G,) float32, of the whole group
    members: tuple[int, ...]  # which of its episodes

    def cost(self, lengths: Sequence[int]) -> int:
        """Padded tokens of only these episodes."""
        return len(self.members) * max(lengths[i] for i in self.members)


MicroBatch = list[Piece]
EpisodeKey = tuple[int, int]
"""The group's ordinal, and the episode's index in the group."""


def plan_micro_batches(
    pieces: Sequence[Piece], lengths: Mapping[int, Sequence[int]], num_ranks: int, token_budget: int
) -> list[list[MicroBatch]]:
    """Deal pieces over ranks and micro-batches, [rank][step]; every rank gets the same number of steps.

    A micro-batch holds at most `token_budget` padded tokens. A group stays whole where it fits; otherwise its episodes
    are sorted by length and split. Longest first onto the rank with the least to do. An empty micro-batch is legal: a
    rank that has nothing left takes part in its neighbours' collectives.

    Args:
        pieces: whole groups.
        lengths: for each ordinal, prompt + response tokens of each of its episodes.
    """
    fitting = [part for piece in pieces for part in _split(piece, lengths[piece.ordinal], token_budget)]
    fitting.sort(key=lambda piece: -piece.cost(lengths[piece.ordinal]))
    ranks: list[list[Piece]] = [[] for _ in range(num_ranks)]
    loads = [0] * num_ranks
    for piece in fitting:
        rank = loads.index(min(loads))
        ranks[rank].append(piece)
        loads[rank] += sum(lengths[piece.ordinal][i] for i in piece.members)
    packed = [_pack(rank, lengths, token_budget) for rank in ranks]
    steps = max(map(len, packed))
    return [micro_batches + [[] for _ in range(steps - len(micro_batches))] for micro_batches in packed]


def _split(piece: Piece, lengths: Sequence[int], token_budget: int) -> list[Piece]:
    members = sorted(piece.members, key=lambda i: -lengths[i])
    parts: list[list[int]] = []
    for i in members:  # longest first, so a part's padded width is that of its first member
        if parts and lengths[parts[-1][0]] * (len(parts[-1]) + 1) <= token_budget:
            parts[-1].append(i)
        else:
            parts.append([i])
    return [Piece(piece.ordinal, piece.ref, piece.guidance, piece.advantages, tuple(sorted(part))) for part in parts]


def _pack(pieces: Sequence[Piece], lengths: Mapping[int, Sequence[int]], token_budget: int) -> list[MicroBatch]:
    """First fit, longest first: neighbours in a micro-batch have similar widths, so little of it is padding."""
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
    """One micro-batch on a rank: what the trunk reads, and where in it the response rows are."""

    input_ids: Tensor  # (B, T) int64, right-padded
    attention_mask: Tensor  # (B, T) int64
    row_index: Tensor  # (N,) int64 into the flat (B*T) positions: the hidden state that predicts a response token
    rows: TokenRows
    keys: tuple[EpisodeKey, ...]  # of each sequence


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
    """Pad the sequences for the trunk and flatten everything else to one row a response token.

    Args:
        episodes: one a sequence; none gives a batch of one dummy token without rows, so that a rank with nothing to do
            still runs forward and backward.
        loss: says which guidance becomes targets and which becomes extra rows.
        old_logprobs: (T,) for each key, or None where the ratio is one.
    """
    counts = np.asarray([len(it.episode.response_ids) for it in episodes], np.int64)
    width = max((len(it.episode.prompt_ids) + len(it.episode.response_ids) for it in episodes), default=1)
    ids = np.zeros((max(len(episodes), 1), width), np.int64)
    attention = np.zeros_like(ids)
    attention[:, 0] = 1
    row_index: list[np.ndarray] = []
    for b, (_, episode, _, _) in enumerate(episodes):
        start, stop = len(episode.prompt_ids), len(episode.prompt_ids) + len(episode.response_ids)
        ids[b, :start], ids[b, start:stop] = episode.prompt_ids, episode.response_ids
        attention[b, :stop] = 1
        row_index.append(b * width + np.arange(start - 1, stop - 1))  # logits at t - 1 predict token t
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
    ids = _target_ids(episodes, loss)  # (N, K)
    masks = [np.isin(it.episode.origin, loss.trained_origins) for it in episodes]
    trained = _concat(masks, np.bool_)
    mask = ((ids >= 0) & trained[:, None]).astype(np.float32)
    old = None if old_logprobs is None else _concat([old_logprobs[it.key] for it in episodes], np.float32)
    # not a number where a scorer failed: a loss must leave those rows out, and 0.0 would be the log-prob of certainty
    extra = {name: _concat(_scored(episodes, name, np.nan), np.float32) for name in loss.row_fields}
    return TokenRows(
        targets=torch.from_numpy(np.maximum(ids, 0)),
        target_mask=torch.from_numpy(mask),
        advantages=torch.from_numpy(np.repeat(np.asarray([it.advantage for it in episodes], np.float32), counts)),
        old_logprobs=None if old is None else torch.from_numpy(old),
        sequence=torch.from_numpy(np.repeat(np.arange(len(episodes)), counts)),
        lengths=torch.from_numpy(np.repeat(np.asarray([mask.sum() for mask in masks], np.float32), counts)),
        extra={name: torch.from_numpy(values) for name, values in extra.items()},
    )


def _target_ids(episodes: Sequence[TrainEpisode], loss: TokenLoss) -> np.ndarray:
    """(N, K) int64: the sampled token, then the columns of `loss.targets`; -1 where a scorer says nothing."""
    columns = [_concat([it.episode.response_ids for it in episodes], np.int64)[:, None]]
    for name in loss.targets:
        values = _concat(_scored(episodes, name, -1), np.int64)
        columns.append(values if values.ndim == 2 else values[:, None])
    return np.concatenate(columns, axis=1)


def _scored(episodes: Sequence[TrainEpisode], name: str, missing: float) -> list[np.ndarray]:
    """`scorer.field` of each episode, (T,) or (T, k); all `missing` where the scorer failed: its group goes on without.

    `episode.field` is an attribute of the episode itself.

    Raises:
        ValueError: a scorer's answer has another length than the response.
    """
    answers = [_field(it.episode, it.guidance, name) for it in episodes]
    width = next((values.shape[1:] for values in answers if values is not None), ())
    return [
        np.full((len(it.episode.response_ids), *width), missing) if values is None else values
        for values, it in zip(answers, episodes, strict=True)
    ]


def _field(episode: Episode, guidance: Mapping[str, Guidance], name: str) -> np.ndarray | None:
    scorer, _, attribute = name.partition(".")
    length = len(episode.response_ids)
    if scorer == "episode":  # what the episode itself says: a number for all of its tokens, or one for each
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
