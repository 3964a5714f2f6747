"""One figure for each name, from the replies of the ranks to an update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tgpo_ray.learners.learner import Sums


def losses(ranks: Sequence[Mapping[str, float]], denominator: float) -> dict[str, float]:
    """Returns `loss/<name>` of an update: the summed loss of the ranks and its parts, divided as the gradient is."""
    names = {name for sums in ranks for name in sums}
    return {f"loss/{name}": sum(sums.get(name, 0.0) for sums in ranks) / denominator for name in sorted(names)}


def reduced(sums: Sequence[Sums]) -> dict[str, float]:
    from tgpo_ray.reporting import reduce

    return reduce(sums)
