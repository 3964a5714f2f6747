"""Numbers for every token that need the whole batch: made in one Ray task, so that the driver carries none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from tgpo_ray.episode import ORIGIN_POLICY, Episode, EpisodeGroup, Guidance, SampledGroup

Logprobs = Mapping[tuple[int, int], np.ndarray]  # (group's ordinal, place of the episode) -> (T,)


@dataclass(frozen=True)
class GroupTokens:
    """A group as `compute` sees it: its trained episodes, what scorers said of each, and the learners' log-probs."""

    episodes: list[Episode]
    guidance: list[dict[str, Guidance]]  # by scorer, one mapping an episode
    logprobs: list[np.ndarray | None]  # (T,) each, where learners were asked

    @property
    def rewards(self) -> np.ndarray:
        """(G,)"""
        return np.asarray([episode.reward for episode in self.episodes])

    @property
    def masks(self) -> list[np.ndarray]:
        """(T,) bool each: the tokens that the policy wrote."""
        return [episode.origin == ORIGIN_POLICY for episode in self.episodes]


def placed(groups: Sequence[GroupTokens], values: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """(T,) float32 for each episode: `values`, one for each of the policy's tokens, in their places, 0 elsewhere."""
    placed = [[np.zeros(len(mask), np.float32) for mask in group.masks] for group in groups]
    for group, rows, of_group in zip(groups, placed, values, strict=True):
        for row, mask, of_episode in zip(rows, group.masks, of_group, strict=True):
            row[mask] = of_episode
    return placed


Compute = Callable[[Sequence[GroupTokens]], list[list[np.ndarray]]]


def with_values(
    groups: Sequence[SampledGroup], compute: Compute, scorer: str, logprobs: Sequence[Any] = ()
) -> list[SampledGroup]:
    """The groups with `compute`'s numbers under `scorer`, as `Guidance.values`.

    Args:
        compute: from all groups to one (T,) array an episode; a function of a module, or a partial of one.
        logprobs: what `LearnerGroup.logprobs` returned for these groups.
    """
    if not groups:
        return []
    task: Any = ray.remote(_values).options(num_cpus=0, num_returns=len(groups))
    places = [(group.ordinal, group.members) for group in groups]
    refs = task.remote(
        compute, places, [group.ref for group in groups], [group.guidance for group in groups], list(logprobs)
    )
    refs = [refs] if len(groups) == 1 else refs
    return [replace(group, guidance={**group.guidance, scorer: ref}) for group, ref in zip(groups, refs, strict=True)]


def _values(
    compute: Compute,
    places: Sequence[tuple[int, tuple[int, ...] | None]],
    refs: Sequence[Any],
    guidance: Sequence[Mapping[str, Any]],
    logprobs: Sequence[Any],
) -> Any:
    """One list of Guidance a group, with a row for every episode behind its reference, trained or not."""
    by_episode: dict[tuple[int, int], np.ndarray] = {}
    for answer in ray.get(list(logprobs)):
        by_episode |= answer
    groups: list[EpisodeGroup] = [ray.get(ref) for ref in refs]
    answers = [{scorer: ray.get(ref) for scorer, ref in scorers.items()} for scorers in guidance]
    members = [
        range(len(group)) if chosen is None else chosen for group, (_, chosen) in zip(groups, places, strict=True)
    ]
    values = compute(
        [
            GroupTokens(
                [group.episodes[i] for i in chosen],
                [{scorer: rows[i] for scorer, rows in scorers.items()} for i in chosen],
                [by_episode.get((ordinal, i)) for i in chosen],
            )
            for group, scorers, chosen, (ordinal, _) in zip(groups, answers, members, places, strict=True)
        ]
    )
    guided = [_of_every_episode(*parts) for parts in zip(groups, members, values, strict=True)]
    return guided[0] if len(guided) == 1 else guided


def _of_every_episode(group: EpisodeGroup, members: Sequence[int], values: Sequence[np.ndarray]) -> list[Guidance]:
    """The members' values in the places of their episodes, 0 for the episodes that are not trained on."""
    rows = [np.zeros(len(episode.response_ids), np.float32) for episode in group.episodes]
    for place, row in zip(members, values, strict=True):
        rows[place] = np.asarray(row, np.float32)
    return [Guidance(values=row) for row in rows]
