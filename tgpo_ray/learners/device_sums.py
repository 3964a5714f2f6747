"""Sums over micro-batches that stay on the device, so that no micro-batch waits for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


class DeviceSums:
    """Named tuples of scalars, added up on their device and fetched in one transfer."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = {}

    def add(self, scalars: Mapping[str, Sequence[Tensor]]) -> None:
        """Add the scalars () of each name to those of earlier calls."""
        for name, values in scalars.items():
            sums = self._sums.get(name, [0.0] * len(values))
            self._sums[name] = [total + value.detach() for total, value in zip(sums, values, strict=True)]

    def take(self) -> dict[str, tuple[float, ...]]:
        """Returns the sums by name, and begins again at 0."""
        sums, self._sums = self._sums, {}
        numbers = iter(fetched([value for values in sums.values() for value in values]))
        return {name: tuple(next(numbers) for _ in values) for name, values in sums.items()}


def fetched(scalars: Sequence[Tensor]) -> list[float]:
    """Returns the numbers of scalars (), which wait for the device once."""
    return torch.stack([scalar.double() for scalar in scalars]).tolist() if scalars else []
