"""The OpenMP threads of a rank on a machine without GPUs."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Literal, TypeVar

import torch

from tgpo_ray.models import IdleCores, machine_cores

# Gradients depend on the number of threads in their last bits, so where a run promises to repeat itself the number must
# not depend on who computes at the moment.
#   own   its own threads: others work at the same time
#   idle  all cores while nobody else computes, and its own otherwise: groups arrive in any order anyway
#   all   all cores: nobody else works during an update
Cores = Literal["own", "idle", "all"]
ItemT = TypeVar("ItemT")


class RankThreads:
    """Sets torch's number of threads before each micro-batch.

    Args:
        threads: the rank's own; None: torch's default.
        cores: see `Cores`; None: the threads stay as they are.
    """

    def __init__(self, threads: int | None, cores: Cores | None) -> None:
        if threads:
            torch.set_num_threads(threads)
        own = torch.get_num_threads()
        self._cores: IdleCores | None = None
        if cores == "idle":
            self._cores = IdleCores(own)
        elif cores is not None:
            share = machine_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # set by Ray Train
            fixed = max(own, share) if cores == "all" else own
            self._cores = IdleCores(fixed, fixed)

    def working(self, items: Iterable[ItemT]) -> Iterator[ItemT]:
        """Yields the items. Meanwhile the rank counts as one that computes."""
        if self._cores is None:
            yield from items
            return
        try:
            for item in items:
                torch.set_num_threads(self._cores.take())
                yield item
        finally:
            self._cores.rest()
