"""The episodes that others wrote, which a method joins to the policy's own in the group of their problem."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tgpo_ray.episode import EpisodeInfo, SampledGroup


def is_joined(info: EpisodeInfo) -> bool:
    """Whether others wrote all of an episode."""
    return info.num_policy_tokens == 0  # an empty response of the policy has its end of sequence


def rollouts(group: SampledGroup) -> SampledGroup:
    """The group with the policy's own episodes alone."""
    return group.keeping([i for i, info in enumerate(group.infos) if not is_joined(info)])


def num_joined_tokens(groups: Sequence[SampledGroup]) -> int:
    """The number of response tokens that others wrote."""
    return sum(info.num_response_tokens for group in groups for info in group.infos if is_joined(info))
