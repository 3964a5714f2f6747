"""Scaled, soft-capped and biased logits in every path of the fused head, against autograd on the plain formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.core.kernels.test_kernels import D, EverythingLoss, N, V, make_rows
from tests.core.kernels.test_kernels_full_vocabulary import reference
from tgpo_ray.algorithms.token_losses import PolicyLoss
from tgpo_ray.kernels import (
    FusedHead,
    HeadWeights,
    LogitTransform,
    TokenLoss,
    chunked_logprobs,
    fused_divergence,
    fused_token_loss,
)

TRANSFORMS = {
    "granite": LogitTransform(1 / 8),
    "cohere": LogitTransform(2.5),
    "gemma2": LogitTransform(cap=3.0),
    "muse": LogitTransform(1.7, 4.0),
}


def draw(*shape: int, seed: int = 2) -> Tensor:
    return 1.5 * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bent(z: Tensor, transform: LogitTransform, temperature: float) -> Tensor:
    """The formula, written once more."""
    scaled = z * transform.scale
    return (scaled if transform.cap is None else transform.cap * torch.tanh(scaled / transform.cap)) / temperature


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("loss", [EverythingLoss(), PolicyLoss()], ids=["with entropy", "without"])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_value_and_gradients_of_a_token_loss_equal_autograd(name: str, loss: TokenLoss, temperature: float):
    transform, rows = TRANSFORMS[name], make_rows()
    leaves = draw(N, D).requires_grad_(), draw(V, D, seed=3).requires_grad_(), draw(V, seed=4).requires_grad_()
    hidden, weight, bias = leaves
    log_p = torch.log_softmax(bent(hidden @ weight.t() + bias, transform, temperature), -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    expected = loss(log_p.gather(1, rows.targets), entropy, rows).sum()
    gradients = torch.autograd.grad(expected, leaves)
    output = fused_token_loss(
        hidden, weight, rows, loss, temperature=temperature, bias=bias, transform=transform, chunk_bytes=7 * 3 * V * 8
    )
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(torch.autograd.grad(output.loss, leaves), gradients)


@pytest.mark.parametrize("with_entropy", [True, False])
@pytest.mark.parametrize("name", TRANSFORMS)
def test_logprobs_entropy_and_the_head_modules_logits_are_those_of_the_formula(name: str, with_entropy: bool):
    transform, targets = TRANSFORMS[name], make_rows().targets
    hidden, weight, bias = draw(N, D), draw(V, D, seed=3), draw(V, seed=4)
    logits = bent(hidden @ weight.t() + bias, transform, 0.7)
    log_p = torch.log_softmax(logits, -1)
    logprobs, entropy = chunked_logprobs(
        hidden, weight, targets, temperature=0.7, bias=bias, transform=transform, with_entropy=with_entropy,
        chunk_bytes=2000,
    )  # fmt: skip
    torch.testing.assert_close(logprobs, log_p.gather(1, targets))
    if with_entropy:
        torch.testing.assert_close(entropy, -(log_p.exp() * log_p).sum(-1))
    head = FusedHead(nn.Parameter(weight), nn.Parameter(bias), transform)
    torch.testing.assert_close(head(hidden, temperature=0.7).detach(), logits)
    torch.testing.assert_close(head(hidden, targets=targets, temperature=0.7)[0], logprobs)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("policy", "teacher"), [("granite", "gemma2"), ("gemma2", "cohere"), ("muse", "muse")])
def test_a_divergence_sees_what_both_models_do_to_their_logits(policy: str, teacher: str, beta: float):
    leaves = draw(N, D).requires_grad_(), draw(V, D, seed=3).requires_grad_(), draw(V, seed=4).requires_grad_()
    teacher_hidden = draw(N, 5, seed=5)
    theirs = HeadWeights(draw(V - 4, 5, seed=6), draw(V - 4, seed=7), TRANSFORMS[teacher])
    own = HeadWeights(leaves[1], leaves[2], TRANSFORMS[policy])
    assert theirs.bias is not None
    weights = (torch.arange(N) % 3).double()
    log_p = torch.log_softmax(bent(leaves[0] @ leaves[1].t() + leaves[2], own.transform, 0.9)[:, : V - 4], -1)
    log_q = torch.log_softmax(bent(teacher_hidden @ theirs.weight.t() + theirs.bias, theirs.transform, 0.9), -1)
    expected = (weights * reference(log_p, log_q, beta)).sum()
    gradients = torch.autograd.grad(expected, leaves)
    loss, _ = fused_divergence(
        leaves[0], own, teacher_hidden, theirs, weights, beta, temperature=0.9, chunk_bytes=5 * 6 * V * 8
    )
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, leaves), gradients)


@pytest.mark.parametrize("transform", [LogitTransform(), TRANSFORMS["gemma2"]], ids=["plain", "capped"])
@pytest.mark.parametrize("loss", [EverythingLoss(), PolicyLoss()], ids=["with entropy", "without"])
def test_a_logit_of_minus_infinity_has_no_probability_and_finite_gradients(loss: TokenLoss, transform: LogitTransform):
    """A bias of -inf takes an id out. p log p is 0 there, where 0 * -inf would be NaN."""
    rows = make_rows()
    rows = rows.replace(targets=rows.targets.clamp(min=1))
    hidden, weight = draw(N, D).requires_grad_(), draw(V, D, seed=3).requires_grad_()
    bias = draw(V, seed=4)
    if transform.cap is None:
        bias[0] = -torch.inf
    log_p = torch.log_softmax(bent(hidden @ weight.t() + bias, transform, 1.0)[:, int(transform.cap is None) :], -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    shifted = rows.targets - int(transform.cap is None)
    expected = loss(log_p.gather(1, shifted), entropy, rows).sum()
    gradients = torch.autograd.grad(expected, (hidden, weight))
    output = fused_token_loss(hidden, weight, rows, loss, bias=bias, transform=transform)
    torch.testing.assert_close(output.loss, expected)
    torch.testing.assert_close(torch.autograd.grad(output.loss, (hidden, weight)), gradients)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_a_divergence_without_an_id_on_both_sides_is_that_of_the_others(beta: float):
    hidden, weight, bias = draw(N, D).requires_grad_(), draw(V, D, seed=3), draw(V, seed=4)
    bias[2] = -torch.inf
    teacher = HeadWeights(draw(V, D, seed=5), bias)
    kept = torch.arange(V) != 2

    def value(own: HeadWeights, theirs: HeadWeights) -> Tensor:
        return fused_divergence(hidden, own, draw(N, D, seed=6), theirs, torch.ones(N).double(), beta).loss

    without = value(HeadWeights(weight[kept], bias[kept]), HeadWeights(teacher.weight[kept], bias[kept]))
    found = value(HeadWeights(weight, bias), teacher)
    torch.testing.assert_close(found, without)
    torch.testing.assert_close(torch.autograd.grad(found, hidden), torch.autograd.grad(without, hidden))


def test_no_transform_changes_no_bit():
    hidden, weight, rows = draw(N, D), draw(V, D, seed=3), make_rows()
    plain = fused_token_loss(hidden, weight, rows, EverythingLoss(), temperature=0.7)
    same = fused_token_loss(
        hidden, weight, rows, EverythingLoss(), temperature=0.7, transform=LogitTransform(1.0, None)
    )
    assert torch.equal(plain.logprobs, same.logprobs)


@pytest.mark.parametrize(("wrong", "message"), [({"scale": 0.0}, "scale of"), ({"cap": -1.0}, "cap of")])
def test_a_scale_or_cap_that_is_not_positive_is_refused(wrong: dict[str, float], message: str):
    with pytest.raises(ValueError, match=message):
        LogitTransform(**wrong)
