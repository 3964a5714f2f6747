"""LUFFY's loss: shaped traces beside unclipped rollouts."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.algorithms.oracles import (
    FIXED,
    LOGITS,
    P,
    assert_oracle,
    assert_same,
    one_hot,
    one_position,
    random_logits,
    random_rows,
    through_autograd,
    through_kernel,
)
from tgpo_ray.algorithms.luffy import LUFFYLoss
from tgpo_ray.kernels import TokenRows

TRACE = 2


def unclipped(**options: Any) -> LUFFYLoss:
    """As the authors run it."""
    return LUFFYLoss(clip_low=1.0, clip_high=math.inf, **options)


def row(token: int, origin: int = TRACE, advantage: float = 1.0) -> TokenRows:
    return one_position(advantage, (token,), **{"episode.origin": torch.tensor([origin])})


def test_a_trace_token_has_the_shaped_gradient():
    assert_oracle(through_kernel(LUFFYLoss(), row(1)), FIXED["luffy"])


def test_a_rollout_token_has_the_policy_gradient():
    assert_oracle(through_kernel(unclipped(), row(0, origin=1)), FIXED["policy"])


def test_supervised_traces_ignore_the_advantage():
    for advantage in (-1.0, 0.0, 3.0):
        _, gradient = through_kernel(LUFFYLoss(trace_loss="nll", trace_weight=0.5), row(1, advantage=advantage))
        torch.testing.assert_close(gradient[0], 0.5 * (P - one_hot(1)))


@pytest.mark.parametrize("loss", [LUFFYLoss(), LUFFYLoss(trace_loss="nll")], ids=["shaped", "nll"])
def test_a_step_raises_the_traces_token(loss: LUFFYLoss):
    _, gradient = through_kernel(loss, row(1))
    assert torch.softmax(LOGITS - 0.1 * gradient, -1).flatten()[1] > P[1]


def test_value_and_gradient_equal_autograd_on_random_logits():
    rows = random_rows(num_targets=1)
    origin = 1 + (rows.sequence == 1).long()
    rows, logits = rows.with_extra(**{"episode.origin": origin}), random_logits()
    old = rows.old_logprobs
    assert old is not None

    def formula(log_p: Tensor) -> Tensor:
        sampled = log_p.gather(1, rows.targets)[:, 0]
        on_policy = -rows.advantages * torch.exp(sampled - old)
        shaped = -rows.advantages * sampled.exp() / (sampled.exp() + 0.3)
        entropy = -(log_p.exp() * log_p).sum(-1)
        return rows.mask * (torch.where(origin == TRACE, 2.0 * shaped, on_policy) - 0.01 * entropy)

    loss = unclipped(shaping_gamma=0.3, trace_weight=2.0, entropy_weight=0.01)
    assert_same(through_kernel(loss, rows, logits), through_autograd(formula, logits))


def test_the_weight_of_a_trace_token_is_largest_where_its_probability_is_gamma():
    # dL/dz of token a is -gamma p (1 - p) / (p + gamma)^2; the factor of (e_a - p) peaks at p = gamma
    factors = {}
    for probability in (0.01, 0.1, 0.5):
        rest = (1 - probability) / 3
        logits = torch.tensor([probability, rest, rest, rest], dtype=torch.float64).log()
        _, gradient = through_kernel(LUFFYLoss(shaping_gamma=0.1), row(0), logits)
        factors[probability] = -float(gradient[0, 0]) / (1 - probability)
    assert factors[0.1] == pytest.approx(0.25) and factors[0.1] > max(factors[0.01], factors[0.5])


def test_metrics_of_rollouts_leave_traces_out():
    rows = random_rows(num_targets=1)
    rows = rows.with_extra(**{"episode.origin": 1 + (rows.sequence == 1).long()})
    log_p = torch.log_softmax(random_logits(), -1).gather(1, rows.targets)
    metrics = unclipped().metrics(log_p, None, rows)
    on_policy = rows.mask * (rows.sequence != 1)
    assert metrics["policy/ratio_deviation"][1] == on_policy.sum()
    assert metrics["loss/trace_nll"][1] == (rows.mask * (rows.sequence == 1)).sum()


def test_at_the_fixed_vector_the_probability_is_what_the_table_says():
    assert torch.softmax(LOGITS, -1)[1] == pytest.approx(0.27600434)
