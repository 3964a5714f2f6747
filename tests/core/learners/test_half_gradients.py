"""In bfloat16 DeepSpeed sums the gradients of micro-batches and ranks in float32."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.core.ranks import in_ranks
from tgpo_ray.learners.strategies import DeepSpeedStrategy, StrategyOptions

NUM_SMALL, SMALL = 256, 2.0**-9


class _Weight(nn.Module):
    """The loss is weight times factor, so that the factor is the gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(1, 1, bias=False)

    def forward(self, factor: Tensor) -> Tensor:
        return self.layer(factor).sum()


def _norms(stages: list[int]) -> list[float]:
    """Returns for each stage the norm of the gradient 1 + 256 / 512, summed over as many micro-batches."""
    norms = []
    for stage in stages:
        options: Any = StrategyOptions(strategy="deepspeed", dtype="bfloat16", zero_stage=stage)
        strategy = DeepSpeedStrategy(_Weight(), options, torch.device("cpu"))
        for factor in [1.0, *[SMALL] * NUM_SMALL]:
            strategy.backward(strategy.module(torch.tensor([factor], dtype=torch.bfloat16)))
        norms.append(strategy.step(1.0, 0.0))
    return norms


@pytest.mark.slow
@pytest.mark.parametrize("num_ranks", [1, 2])
def test_small_gradients_count(num_ranks: int) -> None:
    """In bfloat16 1 + 2**-9 is 1: the sum would be that of the first micro-batch alone."""
    assert torch.tensor(1.0, dtype=torch.bfloat16) + SMALL == 1.0
    expected = num_ranks * (1.0 + NUM_SMALL * SMALL)
    assert in_ranks(_norms, [0, 1, 2, 3], num_ranks=num_ranks) == [[expected] * 4] * num_ranks
