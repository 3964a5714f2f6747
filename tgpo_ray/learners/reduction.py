"""Figures by name from the replies of the ranks, and figures by episode for them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.learners.learner import Sums

NumberT = TypeVar("NumberT", bound=float)


def losses(ranks: Sequence[Mapping[str, float]], denominator: float) -> dict[str, float]:
    """Returns `loss/<name>` of an update: the summed loss of the ranks and its parts, divided as the gradient is."""
    names = {name for sums in ranks for name in sums}
    return {f"loss/{name}": sum(sums.get(name, 0.0) for sums in ranks) / denominator for name in sorted(names)}


def reduced(sums: Sequence[Sums]) -> dict[str, float]:
    from tgpo_ray.reporting import reduce

    return reduce(sums)


def by_index(group: SampledGroup, values: Iterable[NumberT]) -> list[NumberT | int]:
    """Returns `values`, one for each info, at the indices of their episodes; 0 where an episode was left out."""
    if group.members is None:
        return list(values)
    by_index = dict(zip(group.members, values, strict=True))
    return [by_index.get(index, 0) for index in range(max(by_index) + 1)]
