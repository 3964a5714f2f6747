"""The two-headed kernel against autograd on full logits, and against the fixed vector."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.algorithms.oracles import FIXED, LOGITS, TEACHER_LOGITS
from tgpo_ray.kernels import HeadWeights, fused_divergence

BETAS = [0.0, 0.1, 0.5, 0.9, 1.0]


def reference(log_p: Tensor, log_q: Tensor, beta: float) -> Tensor:
    """(N,) the definition, in plain torch."""

    def kl(a: Tensor, b: Tensor) -> Tensor:
        return (a.exp() * (a - b)).sum(-1)

    if beta in (0.0, 1.0):
        return kl(log_q, log_p) if beta == 0.0 else kl(log_p, log_q)
    log_m = (beta * log_q.exp() + (1 - beta) * log_p.exp()).log()
    return beta * kl(log_q, log_m) + (1 - beta) * kl(log_p, log_m)


@pytest.mark.parametrize(("beta", "name"), [(0.0, "forward_kl"), (0.5, "jsd"), (1.0, "reverse_kl")])
def test_the_fixed_vector(beta: float, name: str):
    hidden, weight = LOGITS[None].clone().requires_grad_(), torch.eye(4, dtype=torch.float64)
    loss, values = fused_divergence(
        hidden, HeadWeights(weight), TEACHER_LOGITS[None], HeadWeights(weight), torch.ones(1).double(), beta=beta
    )
    loss.backward()
    assert hidden.grad is not None
    torch.testing.assert_close(hidden.grad[0], torch.tensor(FIXED[name].gradient).double(), atol=2e-8, rtol=0)
    assert abs(values.item() - (FIXED[name].loss or 0.0)) < 2e-8


@pytest.mark.parametrize("temperature", [1.0, 0.9])
@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("vocabularies", [(13, 13), (13, 11), (11, 13)])
def test_value_and_gradients_equal_autograd(beta: float, temperature: float, vocabularies: tuple[int, int]):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).double()

    hidden, weight = draw(10, 6).requires_grad_(), draw(vocabularies[0], 6).requires_grad_()
    teacher_hidden, teacher_weight = draw(10, 4), draw(vocabularies[1], 4)
    row_weights = torch.rand(10, generator=generator).double() * (torch.arange(10) % 3 > 0)
    shared = min(vocabularies)
    log_p = torch.log_softmax((hidden @ weight.t())[:, :shared] / temperature, -1)
    log_q = torch.log_softmax((teacher_hidden @ teacher_weight.t())[:, :shared] / temperature, -1)
    expected = (row_weights * reference(log_p, log_q, beta)).sum()
    expected_gradients = torch.autograd.grad(3.0 * expected, (hidden, weight))
    loss, _ = fused_divergence(
        hidden, HeadWeights(weight), teacher_hidden, HeadWeights(teacher_weight), row_weights,
        beta=beta, temperature=temperature, chunk_bytes=3 * 5 * 13 * 8,
    )  # fmt: skip
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(3.0 * loss, (hidden, weight)), expected_gradients)


def test_equal_distributions_have_no_divergence_and_no_rows_no_gradient():
    hidden, weight = torch.randn(4, 3, requires_grad=True), HeadWeights(torch.randn(7, 3))
    loss, values = fused_divergence(hidden, weight, hidden.detach(), weight, torch.ones(4), beta=0.5)
    loss.backward()
    assert values.abs().max() < 1e-6 and hidden.grad is not None and hidden.grad.abs().max() < 1e-6
    empty = fused_divergence(hidden[:0], weight, hidden[:0].detach(), weight, torch.ones(0), beta=0.0)
    assert empty.loss == 0.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_half_precision_keeps_its_dtypes_and_stays_near(dtype: torch.dtype):
    generator = torch.Generator().manual_seed(1)
    exact = [torch.randn(8, 16, generator=generator).double(), torch.randn(32, 16, generator=generator).double() / 4]
    gradients = {}
    for kind in (torch.float64, dtype):
        hidden, weight = (tensor.to(kind).requires_grad_() for tensor in exact)
        teacher = hidden.detach().flip(0), HeadWeights(weight.detach())
        loss, _ = fused_divergence(hidden, HeadWeights(weight), *teacher, torch.ones(8), beta=0.5)
        gradients[kind] = torch.autograd.grad(loss, (hidden, weight))
    for got, expected in zip(gradients[dtype], gradients[torch.float64], strict=True):
        assert got.dtype == dtype
        assert (got.double() - expected).norm() / expected.norm() < (2e-6 if dtype == torch.float32 else 2e-2)


def test_bad_arguments_are_named():
    hidden, weight = torch.randn(4, 3), HeadWeights(torch.randn(7, 3))
    with pytest.raises(ValueError, match=r"beta must be in \[0, 1\], got 2"):
        fused_divergence(hidden, weight, hidden, weight, torch.ones(4), beta=2.0)
    with pytest.raises(ValueError, match="each pair needs one width"):
        fused_divergence(hidden, weight, torch.randn(4, 5), weight, torch.ones(4), beta=0.5)
    with pytest.raises(ValueError, match="4, 4 and 3 rows"):
        fused_divergence(hidden, weight, hidden, weight, torch.ones(3), beta=0.5)
