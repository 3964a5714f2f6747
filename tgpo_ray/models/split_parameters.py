"""Parameters that ZeRO-3 has split over the ranks: DeepSpeed leaves a shard, and the whole shape in `ds_shape`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


def is_split(parameter: Tensor) -> bool:
    return hasattr(parameter, "ds_id")


def whole_shape(parameter: Tensor) -> tuple[int, ...]:
    """Returns the shape of a parameter, also of one that is split."""
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


@contextlib.contextmanager
def gathered(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """The parameters are whole inside the block; every rank must enter it. Without split ones it does nothing."""
    split = [it for it in parameters if is_split(it)]
    if not split:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(split, modifier_rank=None):
        yield
