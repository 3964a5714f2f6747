"""Numbers for every token that need the whole batch: made in one Ray task, so that the driver carries none of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import ray

from tgpo_ray.episode import ORIGIN_POLICY, Episode, Guidance, SampledGroup

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
    answers = [[np.zeros(len(mask), np.float32) for mask in group.masks] for group in groups]
    for group, rows, found in zip(groups, answers, values, strict=True):
        for row, mask, numbers in zip(rows, group.masks, found, strict=True):
            row[mask] = numbers
    return answers


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
    known: dict[tuple[int, int], np.ndarray] = {}
    for answer in ray.get(list(logprobs)):
        known |= answer
    found: list[Any] = [ray.get(ref) for ref in refs]
    said = [{scorer: ray.get(ref) for scorer, ref in scorers.items()} for scorers in guidance]
    members = [
        range(len(group)) if chosen is None else chosen for group, (_, chosen) in zip(found, places, strict=True)
    ]
    values = compute(
        [
            GroupTokens(
                [group.episodes[i] for i in chosen],
                [{scorer: answers[i] for scorer, answers in scorers.items()} for i in chosen],
                [known.get((ordinal, i)) for i in chosen],
            )
            for group, scorers, chosen, (ordinal, _) in zip(found, said, members, places, strict=True)
        ]
    )
    answers = []
    for group, chosen, rows in zip(found, members, values, strict=True):
        placed = dict(zip(chosen, rows, strict=True))
        missing = [np.zeros(len(episode.response_ids), np.float32) for episode in group.episodes]
        answers.append([Guidance(values=np.asarray(placed.get(i, missing[i]), np.float32)) for i in range(len(group))])
    return answers[0] if len(answers) == 1 else answers
