"""The micro-batches of sampled groups, planned from what the driver knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tgpo_ray.learners.planning import MicroBatch, Piece, plan_micro_batches
from tgpo_ray.learners.reduction import by_index

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.learners.tokens import Layout


def plan_of_groups(
    groups: Sequence[SampledGroup],
    advantages: Sequence[np.ndarray] | None,
    num_ranks: int,
    token_budget: int,
    layout: Layout,
) -> list[list[MicroBatch]]:
    """Returns micro-batches as [rank][step]; without `advantages`, which only a loss reads, they are 0."""
    if advantages is None:
        advantages = [np.zeros(len(group.infos), np.float32) for group in groups]
    pieces = [piece_of(group, values) for group, values in zip(groups, advantages, strict=True)]
    lengths = {group.ordinal: by_index(group, [info.num_tokens for info in group.infos]) for group in groups}
    prompts = {group.ordinal: max(info.num_prompt_tokens for info in group.infos) for group in groups}
    return plan_micro_batches(pieces, lengths, num_ranks, token_budget, layout=layout, prompts=prompts)


def piece_of(group: SampledGroup, advantages: np.ndarray) -> Piece:
    """Returns the whole group as ranks receive it; `advantages` (G,) of the episodes in `infos`."""
    return Piece(
        group.ordinal,
        group.ref,
        group.guidance,
        np.asarray(by_index(group, advantages), np.float32),
        tuple(range(len(group.infos))) if group.members is None else group.members,
        group.success,
    )
