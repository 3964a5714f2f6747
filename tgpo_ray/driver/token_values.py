"""Numbers for every token that need the whole batch. One Ray task computes them, so the driver holds none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from tgpo_ray.episode import ORIGIN_POLICY, Episode, EpisodeGroup, Guidance, SampledGroup

EpisodeKey = tuple[int, int]  # the group's ordinal, and the episode's place in the group
Logprobs = Mapping[EpisodeKey, np.ndarray]  # (T,) for each episode


@dataclass(frozen=True)
class GroupTokens:
    """The data of a group that `compute` gets: trained episodes, scorers' answers, learners' log-probs."""

    episodes: list[Episode]
    guidance: list[dict[str, Guidance]]  # by scorer, one mapping an episode
    logprobs: list[np.ndarray | None]  # (T,) each; None without `logprobs` in `with_values`

    @property
    def rewards(self) -> np.ndarray:
        """(G,) the rewards of the trained episodes."""
        return np.asarray([episode.reward for episode in self.episodes])

    @property
    def masks(self) -> list[np.ndarray]:
        """(T,) bool for each episode, True on the tokens that the policy wrote."""
        return [episode.origin == ORIGIN_POLICY for episode in self.episodes]


def placed(groups: Sequence[GroupTokens], values: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """(T,) float32 for each episode, with `values` at the places of the policy's tokens and 0 elsewhere."""
    batch = [[np.zeros(len(mask), np.float32) for mask in group.masks] for group in groups]
    for group, rows, group_values in zip(groups, batch, values, strict=True):
        for row, mask, row_values in zip(rows, group.masks, group_values, strict=True):
            row[mask] = row_values
    return batch


Compute = Callable[[Sequence[GroupTokens]], list[list[np.ndarray]]]


def with_values(
    groups: Sequence[SampledGroup],
    compute: Compute,
    scorer: str,
    logprobs: Sequence[ray.ObjectRef[dict[EpisodeKey, np.ndarray]]] = (),
    field: str = "values",
) -> list[SampledGroup]:
    """The groups with `compute`'s numbers under `scorer`, as this field of `Guidance`.

    Args:
        compute: takes all groups and returns a (T,) array for each episode. It must be picklable: a function of a
            module, or a partial of one.
        logprobs: the result of `LearnerGroup.logprobs` for these groups.
    """
    if not groups:
        return []
    task: Any = ray.remote(_values).options(num_cpus=0, num_returns=len(groups))
    places = [(group.ordinal, group.members) for group in groups]
    refs = task.remote(
        compute, places, [group.ref for group in groups], [group.guidance for group in groups], list(logprobs), field
    )
    refs = [refs] if len(groups) == 1 else refs  # Ray returns a bare reference where num_returns is 1
    return [replace(group, guidance={**group.guidance, scorer: ref}) for group, ref in zip(groups, refs, strict=True)]


def learners_logprobs(groups: Sequence[GroupTokens]) -> list[list[np.ndarray]]:
    """(T,) for each episode, the log-probs that learners gave to `with_values`: a `compute` that changes nothing."""
    return [[np.zeros(0) if it is None else it for it in group.logprobs] for group in groups]


def _values(
    compute: Compute,
    places: Sequence[tuple[int, tuple[int, ...] | None]],
    refs: Sequence[ray.ObjectRef[EpisodeGroup]],
    guidance: Sequence[Mapping[str, ray.ObjectRef[list[Guidance]]]],
    logprobs: Sequence[ray.ObjectRef[dict[EpisodeKey, np.ndarray]]],
    field: str,
) -> list[list[Guidance]] | list[Guidance]:
    """A list of Guidance for each group, with a row for every episode behind its reference, trained or not."""
    logprobs_by_key: dict[EpisodeKey, np.ndarray] = {}
    for rank_logprobs in ray.get(list(logprobs)):
        logprobs_by_key |= rank_logprobs
    groups = [ray.get(ref) for ref in refs]
    answers = [{scorer: ray.get(ref) for scorer, ref in scorers.items()} for scorers in guidance]
    # The members of a group are its trained episodes: all of them where no verifier failed.
    members = [
        range(len(group)) if indices is None else indices for group, (_, indices) in zip(groups, places, strict=True)
    ]
    values = compute(
        [
            GroupTokens(
                [group.episodes[i] for i in indices],
                [{scorer: rows[i] for scorer, rows in scorers.items()} for i in indices],
                [logprobs_by_key.get((ordinal, i)) for i in indices],
            )
            for group, scorers, indices, (ordinal, _) in zip(groups, answers, members, places, strict=True)
        ]
    )
    scores = []
    for group, indices, rows in zip(groups, members, values, strict=True):
        row_by_index = dict(zip(indices, rows, strict=True))
        zeros = [np.zeros(len(episode.response_ids), np.float32) for episode in group.episodes]  # (T,) each
        scores.append(
            [Guidance(**{field: np.asarray(row_by_index.get(i, zeros[i]), np.float32)}) for i in range(len(group))]
        )
    return scores[0] if len(scores) == 1 else scores
