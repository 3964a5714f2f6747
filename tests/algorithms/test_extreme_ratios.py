"""A token that one policy finds all but impossible: every loss, gradient and metric is a finite number."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module

import pytest
import torch
from torch import Tensor

from tests.algorithms.losses_by_name import LOSSES, VOCABULARY, rows_with_everything, teacher_head
from tests.algorithms.oracles import random_logits
from tgpo_ray.algorithms.losses import importance_ratio, truncated_importance_weight
from tgpo_ray.config import known_algorithms
from tgpo_ray.kernels import FusedHead, HeadWeights, TokenLoss, TokenRows, token_loss_pass

ROW, FAR = 5, 800.0  # a trained row; nats, and exp(800) is infinite in float64 too
SIDES = {
    "pi_old": "old_logprobs",
    "the sampler": "episode.old_logprobs",
    "the reference": "reference.teacher_logprobs",
    "the teacher": "teacher.teacher_logprobs",
}
"""Whose probability of the token is e^-800; "the policy" is the one that trains."""


def far_rows(side: str, advantage: float) -> tuple[TokenRows, Tensor]:
    """float32 rows and logits (N, V), with one token of this advantage that `side` finds impossible."""
    rows, logits = rows_with_everything(), random_logits().float()
    rows = rows.map(lambda tensor: tensor.float() if tensor.is_floating_point() else tensor.clone())
    rows.advantages[ROW], rows.target_mask[ROW] = advantage, 1.0
    rows.extra["advantage.values"][ROW] = advantage
    if side == "the policy":
        logits[ROW, rows.targets[ROW, 0]] = -FAR
    elif side == "pi_old":
        assert rows.old_logprobs is not None
        rows.old_logprobs[ROW] = -FAR
    else:
        rows.extra[SIDES[side]][ROW] = -FAR
    return rows, logits


def subclasses(of: type) -> Iterator[type]:
    for found in of.__subclasses__():
        yield found
        yield from subclasses(found)


def test_every_loss_of_the_registered_algorithms_is_tried_here():
    for path in known_algorithms().values():
        import_module(path.split(":")[0])  # and with it the method's loss
    ours = {it for it in subclasses(TokenLoss) if it.__module__.startswith("tgpo_ray.algorithms")}
    tried = {type(make()) for make in LOSSES.values()}
    assert {it.__name__ for it in ours - tried} == {"KnownTokensLoss"}  # what RKL and KDRL share


@pytest.mark.parametrize("advantage", [0.0, 1.0, -1.0])
@pytest.mark.parametrize("name", LOSSES)
def test_values_gradients_and_metrics_are_finite(name: str, advantage: float):
    for side in ("the policy", *SIDES):
        assert_finite(LOSSES[name](), side, advantage)


def assert_finite(loss: TokenLoss, side: str, advantage: float) -> None:
    rows, logits = far_rows(side, advantage)
    hidden = logits.requires_grad_()
    head = FusedHead(torch.nn.Parameter(torch.eye(VOCABULARY)))
    output = token_loss_pass(head, hidden, rows, loss, teacher_head=HeadWeights(teacher_head().float()))
    if output.loss.requires_grad:
        output.loss.backward()
        assert hidden.grad is not None and hidden.grad.isfinite().all()
        assert head.weight.grad is not None and head.weight.grad.isfinite().all()
    figures = dict(output.sums(loss))
    for metric, (total, count) in loss.metrics(output.logprobs, output.entropy, output.rows).items():
        figures |= {metric: total, f"{metric} (count)": count}
    wrong = {metric: value for metric, value in figures.items() if not torch.isfinite(value).all()}
    assert not wrong, side


def test_an_unbounded_ratio_times_no_advantage_is_nothing():
    logprobs = torch.tensor([0.0, -900.0, -1.0], requires_grad=True)
    ratio = importance_ratio(logprobs, torch.tensor([-800.0, -1.0, -1.5]))
    (gradient,) = torch.autograd.grad((ratio * torch.tensor([0.0, 0.0, 1.0])).sum(), logprobs)
    torch.testing.assert_close(ratio.detach().log(), torch.tensor([20.0, -20.0, 0.5]))
    torch.testing.assert_close(gradient, torch.tensor([0.0, 0.0, ratio[2].item()]))


def test_the_weight_of_an_impossible_token_is_the_cap_and_that_of_an_impossible_sample_nothing():
    weights = truncated_importance_weight(torch.tensor([0.0, -900.0]), torch.tensor([-800.0, 0.0]), cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([2.0, 0.0]), atol=1e-8, rtol=0)
