"""Which rank trains on which episodes, in which micro-batch. The driver plans that from lengths, without a token."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from tgpo_ray.learners.fillings import Fill, arranged, shared_tokens
from tgpo_ray.learners.tokens import Layout


@dataclass(frozen=True)
class Piece:
    """Some episodes of one group, as a rank receives them. It holds references and never tokens."""

    ordinal: int  # of the group; (ordinal, index of an episode) is unique within an iteration
    ref: Any  # ObjectRef of the EpisodeGroup (or the group itself)
    guidance: Mapping[str, Any]  # scorer -> ObjectRef of list[Guidance]
    advantages: np.ndarray  # (G,) float32, of the whole group
    members: tuple[int, ...]  # indices of the group's episodes that are trained on
    success: float = 0.0  # mean reward of the group, see `SampledGroup.success`


MicroBatch = list[Piece]
EpisodeKey = tuple[int, int]
"""(ordinal of the group, index of the episode in the group)."""


Step = list[tuple[int, int]]
"""(start, stop) of each rank's micro-batch in the arranged sequences."""

FILL_LEVELS = 64  # sizes of a micro-batch that a plan chooses from, in equal parts of the token budget
STEP_COST = 1 / 32  # of the token budget: what one more step costs beside its tokens (launches, collectives)


def plan_micro_batches(
    pieces: Sequence[Piece],
    lengths: Mapping[int, Sequence[int]],
    num_ranks: int,
    token_budget: int,
    *,
    layout: Layout = "padded",
    prompts: Mapping[int, int] | None = None,
) -> list[list[MicroBatch]]:
    """Episodes dealt over ranks and micro-batches, `[rank][step]`; every rank gets the same number of steps.

    Ranks meet in each step's collectives, so a step takes as long as its largest micro-batch. With n_sr tokens that
    rank r computes in step s, R ranks, and c = `STEP_COST` token budgets, a plan minimises

        sum_s (max_r n_sr + c)                          useful share = sum_i L_i / sum_s R max_r n_sr

    over the cuts of the sequences, in the order of `fillings.arranged`, into steps of R neighbouring micro-batches. The
    layout says what a micro-batch of B sequences of at most T tokens computes: B T if they are padded, their sum if
    they are packed, and with shared prompts each prompt once and the responses, side by side in rows.

    Sequences that are alike are neighbours, so there is little padding, and the micro-batches of a step are about
    equally large. Groups are split freely: no loss depends on more than one sequence. A micro-batch computes at most
    `token_budget` tokens, except that a longer sequence goes alone. Where sequences run out, micro-batches are empty:
    their ranks only take part in the collectives.

    The plan follows from the lengths, ordinals and indices, not from the order of `pieces` or their advantages: a rank
    trains on the episodes whose log-probs it has remembered. Its pieces share the references and arrays of `pieces`.

    Args:
        pieces: whole groups, one for each ordinal.
        lengths: for each ordinal, prompt + response tokens of each of its episodes.
        prompts: for each ordinal, the tokens of its prompt; `shared_prompt` needs them.
    """
    groups = {piece.ordinal: piece for piece in pieces}
    sequences = [(key, i) for key in sorted(groups) for i in sorted(groups[key].members)]
    totals = np.asarray([lengths[key][i] for key, i in sequences], np.int64)  # (n,)
    owners = np.asarray([key for key, _ in sequences], np.int64)  # (n,)
    of_prompts = None if prompts is None else np.asarray([prompts[key] for key, _ in sequences], np.int64)
    order, fill = arranged(layout, totals, of_prompts, owners)
    steps = _cut_into_steps(len(order), fill, num_ranks, token_budget)
    if layout == "shared_prompt" and of_prompts is not None:
        largest = partial(_most_tokens, of_prompts[order], (totals - of_prompts)[order], owners[order])
        budget = token_budget
        while (most := largest(steps)) > token_budget:  # `fill` counts no padding
            budget = budget * token_budget // most
            steps = _cut_into_steps(len(order), fill, num_ranks, budget)
    ranks: list[list[MicroBatch]] = [[] for _ in range(num_ranks)]
    for number, step in enumerate(steps):
        for rank, (start, stop) in zip(ranks, step[::-1] if number % 2 else step, strict=True):  # longest: in turns
            rank.append(_micro_batch(groups, [sequences[place] for place in order[start:stop]]))
    return ranks


def _most_tokens(prompts: np.ndarray, responses: np.ndarray, owners: np.ndarray, steps: list[Step]) -> int:
    """Tokens of the largest micro-batch with shared prompts, padding included; a sequence alone does not count."""
    runs = [slice(*run) for step in steps for run in step if run[1] - run[0] > 1]
    return max((shared_tokens(prompts[run], responses[run], owners[run]) for run in runs), default=0)


def _micro_batch(groups: Mapping[int, Piece], keys: Iterable[EpisodeKey]) -> MicroBatch:
    """A piece for each group that has episodes among `keys`."""
    members: dict[int, list[int]] = {}
    for ordinal, i in sorted(keys):
        members.setdefault(ordinal, []).append(i)
    return [replace(groups[ordinal], members=tuple(indices)) for ordinal, indices in members.items()]


def _cut_into_steps(count: int, fill: Fill, num_ranks: int, token_budget: int) -> list[Step]:
    """(start, stop) of each micro-batch, [step][rank], in the arranged sequences.

    A shortest path from 0 to `count`: from each start a step leads as far as its micro-batches reach at each of the
    fill levels. It costs its largest micro-batch and `STEP_COST`.
    """
    limits = token_budget * np.arange(1, FILL_LEVELS + 1) // FILL_LEVELS  # (K,)
    stops, tokens = fill(limits)  # (K, n + 1)
    ends, largest = _repeated(stops, tokens, num_ranks)
    ends, costs = ends.T.copy(), largest.T + STEP_COST * token_budget  # (n + 1, K)
    remaining = np.zeros(count + 1)  # least cost from each start to the end
    levels = np.zeros(count + 1, np.int64)
    for start in range(count - 1, -1, -1):
        totals = costs[start] + remaining[ends[start]]  # (K,)
        levels[start] = totals.argmin()
        remaining[start] = totals[levels[start]]
    steps, start = [], 0
    while start < count:
        following = stops[levels[start]]
        bounds = [start]
        for _ in range(num_ranks):
            bounds.append(int(following[bounds[-1]]))
        steps.append(list(pairwise(bounds)))
        start = bounds[-1]
    return steps


def _repeated(stops: np.ndarray, tokens: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(K, n + 1): where `count` micro-batches after each other stop, and the largest of them; by doubling."""
    ends = np.broadcast_to(np.arange(stops.shape[1]), stops.shape)
    largest = np.zeros_like(tokens)
    while count:
        if count % 2:
            largest = np.maximum(largest, np.take_along_axis(tokens, ends, 1))
            ends = np.take_along_axis(stops, ends, 1)
        tokens = np.maximum(tokens, np.take_along_axis(tokens, stops, 1))
        stops = np.take_along_axis(stops, stops, 1)
        count //= 2
    return ends, largest
