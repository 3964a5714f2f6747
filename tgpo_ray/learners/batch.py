"""The tensors of a micro-batch: tokens that the trunk reads, and a row that the loss reads for each response token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from tgpo_ray.episode import Episode, Guidance
from tgpo_ray.kernels import TokenLoss, TokenRows, check_targets
from tgpo_ray.learners.layouts import LAYOUTS
from tgpo_ray.learners.planning import EpisodeKey
from tgpo_ray.learners.tokens import Layout, TokenIds, Tokens, moved

if TYPE_CHECKING:
    from numpy.typing import DTypeLike


@dataclass(frozen=True)
class TrainBatch:
    """One micro-batch on a rank: the input of the trunk, and the response rows in it."""

    tokens: Tokens
    rows: TokenRows  # (N,), in the order of the keys
    keys: tuple[EpisodeKey, ...]  # (B,) one for each sequence
    counts: tuple[int, ...]  # (B,) rows of each sequence


class TrainEpisode(NamedTuple):
    """One episode as a rank trains on it."""

    key: EpisodeKey
    episode: Episode
    guidance: Mapping[str, Guidance]  # by scorer
    advantage: float
    success: float = 0.0  # mean reward of the episode's group


def build_batch(
    episodes: Sequence[TrainEpisode],
    loss: TokenLoss,
    old_logprobs: Mapping[EpisodeKey, np.ndarray] | None,
    device: torch.device,
    *,
    layout: Layout = "padded",
    vocabulary: int | None = None,
) -> TrainBatch:
    """Returns the tokens for the trunk in a layout, and everything else as one row for each response token.

    All that depends on numbers is decided here, before the copy to a GPU, which nothing later has to wait for.

    Args:
        episodes: one for each sequence. Without episodes the batch is one dummy token and no rows, so that a rank with
            nothing to do still runs forward and backward.
        loss: names the guidance that becomes targets and the guidance that becomes extra rows.
        old_logprobs: (T,) for each key, or None if the ratio is one.
        vocabulary: number of ids of the policy, which targets are checked against.
    """
    counts = np.asarray([len(it.episode.response_ids) for it in episodes], np.int64)  # (B,), sums to N
    rows = _token_rows(episodes, counts, loss, old_logprobs)
    if vocabulary is not None:
        check_targets(rows.targets, vocabulary)
    ids = [TokenIds(it.episode.prompt_ids, it.episode.response_ids) for it in episodes]
    return TrainBatch(
        LAYOUTS[layout].of(ids).to(device),
        rows.map(lambda tensor: moved(tensor, device)),
        tuple(it.key for it in episodes),
        tuple(counts.tolist()),
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
        sequence=torch.from_numpy(np.repeat((counts > 0).cumsum() - 1, counts)),
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

    `episode.field` is an attribute of the episode itself, and `group.success` its group's mean reward. The top k keep
    their second axis where nobody was answered, which a micro-batch of few or no episodes may be: a loss indexes it.

    Raises:
        ValueError: the answer of a scorer has another length than the response.
    """
    answers = [_field(it, name) for it in episodes]
    unanswered = (1,) if ".topk_" in name else ()
    width = next((values.shape[1:] for values in answers if values is not None), unanswered)
    parts = [
        np.full((len(it.episode.response_ids), *width), missing) if values is None else values
        for values, it in zip(answers, episodes, strict=True)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, *width))


def _field(it: TrainEpisode, name: str) -> np.ndarray | None:
    scorer, _, attribute = name.partition(".")
    length = len(it.episode.response_ids)
    if scorer in ("episode", "group"):  # one number for all tokens, or (T,)
        owner = it.episode if scorer == "episode" else it
        return np.broadcast_to(np.asarray(getattr(owner, attribute)), length)
    values = getattr(it.guidance[scorer], attribute) if scorer in it.guidance else None
    if values is not None and len(values) != length:
        raise ValueError(
            f"scorer {scorer!r} returned {len(values)} positions for a response of {length} tokens: "
            "its answer is misaligned and must not be trained on"
        )
    return values


def _concat(parts: Sequence[np.ndarray], dtype: DTypeLike) -> np.ndarray:
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype)
