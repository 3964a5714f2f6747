"""Each loss at one position: value and gradient against closed forms, and against numbers derived by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tgpo_ray.algorithms.losses import (
    clipped_policy_loss,
    clipped_tokens,
    kl_estimate,
    kl_k1,
    kl_k2,
    kl_k3,
    negative_log_likelihood,
    truncated_importance_weight,
)

LOGITS = [1.0, 0.5, -0.5, 0.0]
TEACHER_LOGITS = [-1.0, 2.0, 0.0, 0.5]


def policy() -> tuple[Tensor, Tensor]:
    """Logits as a leaf, and log p."""
    logits = torch.tensor(LOGITS, dtype=torch.float64, requires_grad=True)
    return logits, torch.log_softmax(logits, -1)


def reference() -> Tensor:
    return torch.log_softmax(torch.tensor(TEACHER_LOGITS, dtype=torch.float64), -1)


def gradient(loss: Tensor, logits: Tensor) -> Tensor:
    return torch.autograd.grad(loss, logits)[0]


def one(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def clipped_at(ratio: float, advantage: float, dual_clip: float | None = None) -> tuple[float, float]:
    """(loss, dloss/dlogprob) of one token."""
    logprob = torch.tensor(-1.0, dtype=torch.float64, requires_grad=True)
    old = logprob.detach() - one(ratio).log()
    loss = clipped_policy_loss(logprob, old, one(advantage), 0.2, 0.28, dual_clip)
    return loss.item(), torch.autograd.grad(loss, logprob)[0].item()


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (1.0, 2.0, -2.0, -2.0),  # -A r
        (1.2, 2.0, -2.4, -2.4),  # inside (0.8, 1.28)
        (1.5, 2.0, -2.56, 0.0),  # A > 0 above: -A 1.28
        (0.5, 2.0, -1.0, -1.0),  # A > 0 below: the bad step back keeps its gradient
        (0.5, -2.0, 1.6, 0.0),  # A < 0 below: -A 0.8
        (1.5, -2.0, 3.0, 3.0),  # A < 0 above: unbounded without the dual clip
    ],
)
def test_clip_takes_the_gradient_away_where_the_step_went_far_enough(ratio, advantage, loss, slope):
    assert clipped_at(ratio, advantage) == pytest.approx((loss, slope), abs=1e-12)


def test_dual_clip_bounds_the_loss_of_a_bad_token_that_became_likelier():
    assert clipped_at(5.0, -2.0, dual_clip=3.0) == pytest.approx((6.0, 0.0))  # -A c
    assert clipped_at(2.0, -2.0, dual_clip=3.0) == pytest.approx((4.0, 4.0))
    assert clipped_at(5.0, 2.0, dual_clip=3.0) == pytest.approx((-2.56, 0.0))


def test_without_old_logprobs_the_ratio_is_exactly_one_and_the_gradient_that_of_the_score():
    logits, log_p = policy()
    loss = clipped_policy_loss(log_p[0], None, one(1.0), 0.2, 0.2)
    assert loss.item() == -1.0
    expected = [-0.54494577, 0.27600434, 0.10153632, 0.1674051]  # -(e_a - p)
    torch.testing.assert_close(gradient(loss, logits), torch.tensor(expected, dtype=torch.float64), atol=1e-7, rtol=0)


def test_clipped_tokens_are_those_without_gradient():
    ratios = torch.tensor([1.0, 1.5, 0.5, 0.5, 1.5], dtype=torch.float64)
    advantages = torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0], dtype=torch.float64)
    logprobs = torch.zeros(5, dtype=torch.float64)
    clipped = clipped_tokens(logprobs, logprobs - ratios.log(), advantages, 0.2, 0.28)
    assert clipped.tolist() == [0.0, 1.0, 0.0, 1.0, 0.0]


def test_negative_log_likelihood_is_cross_entropy():
    logits, log_p = policy()
    loss = negative_log_likelihood(log_p[1])
    torch.testing.assert_close(loss, torch.nn.functional.cross_entropy(logits[None], torch.tensor([1])))
    expected = log_p.exp() - torch.tensor([0.0, 1.0, 0.0, 0.0])  # p - e_y
    torch.testing.assert_close(gradient(loss, logits), expected.detach())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("k1", [0.54494577, -0.27600434, -0.10153632, -0.1674051]),
        ("k2", [1.39234238, -0.70519411, -0.25942642, -0.42772185]),
        ("k3", [0.50260818, -0.25456119, -0.09364783, -0.15439916]),
    ],
)
def test_kl_estimators_have_the_published_gradients(name, expected):
    logits, log_p = policy()
    got = gradient(kl_estimate(log_p[0], reference()[0], name), logits)
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), atol=1e-7, rtol=0)


def test_expected_gradients_of_kl_estimators_over_the_policy():
    """Over a ~ p: k1 teaches nothing, k2 has the gradient of KL(p||q), k3 that of KL(q||p), which is p - q."""
    logits, log_p = policy()
    log_q, p = reference(), log_p.exp()
    held = p.detach()
    torch.testing.assert_close(
        gradient((held * kl_k1(log_p, log_q)).sum(), logits), torch.zeros(4, dtype=torch.float64)
    )
    logits, log_p = policy()
    got = gradient((held * kl_k2(log_p, log_q)).sum(), logits)
    logits, log_p = policy()
    torch.testing.assert_close(got, gradient((log_p.exp() * (log_p - log_q)).sum(), logits))
    logits, log_p = policy()
    torch.testing.assert_close(gradient((held * kl_k3(log_p, log_q)).sum(), logits), held - log_q.exp())


def test_expected_values_of_k1_and_k3_are_the_kl_divergence():
    log_p, log_q = policy()[1].detach(), reference()
    p = log_p.exp()
    for estimator in (kl_k1, kl_k3):
        assert (p * estimator(log_p, log_q)).sum().item() == pytest.approx(0.91664215, abs=1e-8)
    assert bool((kl_k3(log_p, log_q) >= 0).all()) and kl_k3(log_p, log_p).abs().max() == 0


def test_k3_stays_finite_for_a_hopeless_token():
    assert bool(torch.isfinite(kl_k3(torch.tensor([-500.0, 0.0]), torch.tensor([0.0, -500.0]))).all())


def test_unknown_kl_estimator_names_the_known_ones():
    with pytest.raises(ValueError, match="k1, k2, k3, got 'k4'"):
        kl_estimate(one(0.0), one(0.0), "k4")  # type: ignore[arg-type]


def test_importance_weights_are_cut_at_the_cap_and_carry_no_gradient():
    learner = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True)
    weights = truncated_importance_weight(learner, torch.tensor([-1.0, -3.0, 0.0]), cap=2.0)
    torch.testing.assert_close(weights, torch.tensor([1.0, 2.0, 0.36787944]))  # 1, min(e^2, 2), e^-1
    assert not weights.requires_grad
    with pytest.raises(ValueError, match="cap must be > 0"):
        truncated_importance_weight(learner, learner, cap=0.0)
