"""Micro-batches made of episodes: which rank trains on which episodes, and the flat tensors that the loss reads.

The driver plans the micro-batches from the lengths of the episodes. A learner's rank fetches the tokens and builds the
tensors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
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


MicroBatch = list[Piece]
EpisodeKey = tuple[int, int]
"""(ordinal of the group, index of the episode in the group)."""


FILL_LEVELS = 64  # sizes of a micro-batch that a plan chooses from, in equal parts of the token budget
STEP_COST = 1 / 32  # of the token budget: what one more step costs beside its tokens (launches, collectives)


def plan_micro_batches(
    pieces: Sequence[Piece], lengths: Mapping[int, Sequence[int]], num_ranks: int, token_budget: int
) -> list[list[MicroBatch]]:
    """Episodes dealt over ranks and micro-batches, `[rank][step]`; every rank gets the same number of steps.

    Ranks meet in each step's collectives, so a step takes as long as its largest micro-batch. With B_sr sequences of at
    most T_sr tokens in rank r's micro-batch of step s, R ranks, and c = `STEP_COST` token budgets, a plan minimises

        sum_s (max_r B_sr T_sr + c)                     useful share = sum_i L_i / sum_s R max_r B_sr T_sr

    over the cuts of the sequences, sorted by length, into steps of R neighbouring micro-batches. Neighbours have
    similar lengths, so there is little padding, and the micro-batches of a step are about equally large. Groups are
    split freely: no loss depends on more than one sequence. A micro-batch holds at most `token_budget` padded tokens,
    except that a longer sequence goes alone. Where sequences run out, micro-batches are empty: their ranks only take
    part in the collectives.

    The plan follows from the lengths, ordinals and indices, not from the order of `pieces` or their advantages: a rank
    trains on the episodes whose log-probs it has remembered. Its pieces share the references and arrays of `pieces`.

    Args:
        pieces: whole groups, one for each ordinal.
        lengths: for each ordinal, prompt + response tokens of each of its episodes.
    """
    groups = {piece.ordinal: piece for piece in pieces}
    sequences = sorted((-lengths[key][i], key, i) for key, piece in groups.items() for i in piece.members)
    descending = np.asarray([-negative for negative, *_ in sequences], np.int64)
    ranks: list[list[MicroBatch]] = [[] for _ in range(num_ranks)]
    for number, step in enumerate(_cut_into_steps(descending, num_ranks, token_budget)):
        for rank, (start, stop) in zip(ranks, step[::-1] if number % 2 else step, strict=True):  # longest: in turns
            rank.append(_micro_batch(groups, [(key, i) for _, key, i in sequences[start:stop]]))
    return ranks


def _micro_batch(groups: Mapping[int, Piece], keys: Iterable[EpisodeKey]) -> MicroBatch:
    """A piece for each group that has episodes among `keys`."""
    members: dict[int, list[int]] = {}
    for ordinal, i in sorted(keys):
        members.setdefault(ordinal, []).append(i)
    return [replace(groups[ordinal], members=tuple(indices)) for ordinal, indices in members.items()]


def _cut_into_steps(lengths: np.ndarray, num_ranks: int, token_budget: int) -> list[list[tuple[int, int]]]:
    """(start, stop) of each micro-batch, [step][rank], in the descending `lengths` (n,).

    A shortest path from 0 to n: from each start a step leads as far as its micro-batches reach at each of the fill
    levels. It costs its largest micro-batch and `STEP_COST`.
    """
    stops, padded = _filled(lengths, token_budget)  # (K, n + 1)
    ends, largest = _repeated(stops, padded, num_ranks)
    ends, costs = ends.T.copy(), largest.T + STEP_COST * token_budget  # (n + 1, K)
    remaining = np.zeros(len(lengths) + 1)  # least cost from each start to the end
    levels = np.zeros(len(lengths) + 1, np.int64)
    for start in range(len(lengths) - 1, -1, -1):
        totals = costs[start] + remaining[ends[start]]  # (K,)
        levels[start] = totals.argmin()
        remaining[start] = totals[levels[start]]
    steps, start = [], 0
    while start < len(lengths):
        following = stops[levels[start]]
        bounds = [start]
        for _ in range(num_ranks):
            bounds.append(int(following[bounds[-1]]))
        steps.append(list(pairwise(bounds)))
        start = bounds[-1]
    return steps


def _filled(lengths: np.ndarray, token_budget: int) -> tuple[np.ndarray, np.ndarray]:
    """(K, n + 1): where a micro-batch that starts at each sequence stops, and its padded tokens, by fill level."""
    starts = np.arange(len(lengths) + 1)
    widths = np.append(lengths, 1)  # the last start is the end: nothing is left
    limits = token_budget * np.arange(1, FILL_LEVELS + 1)[:, None] // FILL_LEVELS  # (K, 1)
    stops = np.minimum(starts + np.maximum(limits // widths, 1), len(lengths))
    return stops, (stops - starts) * widths


def _repeated(stops: np.ndarray, padded: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(K, n + 1): where `count` micro-batches after each other stop, and the largest of them; by doubling."""
    ends = np.broadcast_to(np.arange(stops.shape[1]), stops.shape)
    largest = np.zeros_like(padded)
    while count:
        if count % 2:
            largest = np.maximum(largest, np.take_along_axis(padded, ends, 1))
            ends = np.take_along_axis(stops, ends, 1)
        padded = np.maximum(padded, np.take_along_axis(padded, stops, 1))
        stops = np.take_along_axis(stops, stops, 1)
        count //= 2
    return ends, largest


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
    # not a number where a scorer failed: a loss must leave those rows out, and 0.0 would be the log-prob of certainty
    extra = {name: _scored(episodes, name, np.nan).astype(np.float32, copy=False) for name in loss.row_fields}
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
        values = _scored(episodes, name, -1).astype(np.int64, copy=False)
        columns.append(values if values.ndim == 2 else values[:, None])
    return np.concatenate(columns, axis=1)


def _scored(episodes: Sequence[TrainEpisode], name: str, missing: float) -> np.ndarray:
    """(N,) or (N, k): `scorer.field` of all episodes, `missing` where the scorer failed: its group goes on without.

    `episode.field` is an attribute of the episode itself. The top k keep their second axis where nobody was answered,
    which a micro-batch of few or no episodes may be: a loss indexes it.

    Raises:
        ValueError: the answer of a scorer has another length than the response.
    """
    answers = [_field(it.episode, it.guidance, name) for it in episodes]
    unanswered = (1,) if ".topk_" in name else ()
    width = next((values.shape[1:] for values in answers if values is not None), unanswered)
    parts = [
        np.full((len(it.episode.response_ids), *width), missing) if values is None else values
        for values, it in zip(answers, episodes, strict=True)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, *width))


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
