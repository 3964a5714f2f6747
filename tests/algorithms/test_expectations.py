"""What a loss teaches on average: its gradient's exact expectation over the policy, the vocabulary enumerated.

The names state what was found; the numbers come through the kernel that training uses.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.algorithms.oracles import (
    LOG_Q,
    LOGITS,
    SAMPLED,
    TEACHER,
    P,
    Q,
    expected_gradient,
    one_hot,
    one_position,
    random_logits,
    through_autograd,
    through_kernel,
)
from tgpo_ray.algorithms.losses import KLEstimator
from tgpo_ray.algorithms.tgpor import ShapedPolicyLoss
from tgpo_ray.algorithms.token_losses import REFERENCE, GuidedPolicyLoss, PolicyLoss
from tgpo_ray.kernels import TokenRows

KL_ESTIMATORS: tuple[KLEstimator, ...] = ("k1", "k2", "k3")
ZERO = torch.zeros(4, dtype=torch.float64)


def scored(token: int, *, advantage: float = 0.0) -> TokenRows:
    """`token` as the sample, the teacher's argmax in column 1, the reference's log-prob of it."""
    return one_position(advantage, targets=(token, TEACHER)).with_extra(**{REFERENCE: LOG_Q[[token]]})


def reverse_kl_gradient() -> Tensor:
    return through_autograd(lambda log_p: (log_p.exp() * (log_p - LOG_Q)).sum())[1][0]


def assert_close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("signal", ["logp", "prob"])
def test_reward_shaping_of_equation_5_has_zero_expected_gradient(signal):
    assert_close(expected_gradient(ShapedPolicyLoss(shaping_weight=0.02, signal=signal), scored), ZERO)


@pytest.mark.parametrize("seed", range(5))
def test_equation_5_teaches_nothing_for_any_policy(seed):
    """Although no single sample's gradient is zero: the term adds variance alone."""
    logits = random_logits(1, 4, seed=seed)[0]
    loss = ShapedPolicyLoss(shaping_weight=0.02, signal="logp")
    assert_close(expected_gradient(loss, scored, logits), ZERO)
    assert through_kernel(loss, scored(SAMPLED), logits)[1].abs().max() > 1e-4


def test_reward_shaping_by_match_is_guidance_weighted_by_the_policys_own_probability():
    """E = lambda p(y^T) (p - e_{y^T}) as a quantity to minimise: the gradient of -lambda p(y^T)."""
    got = expected_gradient(ShapedPolicyLoss(shaping_weight=0.02, signal="match"), scored)
    assert_close(got, 0.02 * P[TEACHER] * (P - one_hot(TEACHER)))


def test_any_advantage_that_depends_on_the_state_alone_teaches_nothing():
    assert_close(expected_gradient(PolicyLoss(), lambda token: scored(token, advantage=1.7)), ZERO)


def test_k1_as_a_loss_teaches_nothing_whatever_the_reference_is():
    loss = PolicyLoss(kl_weight=1.0, kl_estimator="k1")
    assert_close(expected_gradient(loss, scored), ZERO)
    near = scored(SAMPLED)
    far = near.with_extra(**{REFERENCE: LOG_Q[[SAMPLED]] - 9.0})
    assert torch.equal(through_kernel(loss, near)[1], through_kernel(loss, far)[1])


def test_k1_as_an_advantage_has_the_gradient_of_the_reverse_kl():
    loss = PolicyLoss(kl_weight=1.0, kl_estimator="k1", kl_as="advantage")
    assert_close(expected_gradient(loss, scored), reverse_kl_gradient())


def test_k2_as_a_loss_has_the_gradient_of_the_reverse_kl():
    assert_close(expected_gradient(PolicyLoss(kl_weight=1.0, kl_estimator="k2"), scored), reverse_kl_gradient())


def test_k3_as_a_loss_has_the_gradient_of_the_forward_kl():
    assert_close(expected_gradient(PolicyLoss(kl_weight=1.0, kl_estimator="k3"), scored), P - Q)


def test_guidance_towards_sampled_labels_has_the_gradient_of_the_forward_kl():
    """E over y^T ~ q of the guidance gradient; over the argmax it is p - e_{y^T}, the mode's."""
    loss = GuidedPolicyLoss(guidance_weight=1.0)
    gradients = [through_kernel(loss, one_position(targets=(SAMPLED, label)))[1][0] for label in range(4)]
    assert_close(sum(q * gradient for q, gradient in zip(Q, gradients, strict=True)), P - Q)  # pyright: ignore[reportArgumentType]
    assert_close(gradients[TEACHER], P - one_hot(TEACHER))


def test_a_step_against_the_k2_penalty_lowers_the_reverse_kl_and_one_against_k1_does_not():
    """The sign test of a distillation loss: one step of plain gradient descent on the expected gradient."""

    def divergence(logits: Tensor) -> float:
        log_p = torch.log_softmax(logits, -1)
        return (log_p.exp() * (log_p - LOG_Q)).sum().item()

    start = divergence(LOGITS)
    k1, k2, k3 = (PolicyLoss(kl_weight=1.0, kl_estimator=name) for name in KL_ESTIMATORS)
    for loss, lowers in ((k1, False), (k2, True), (k3, True)):
        gradient = expected_gradient(loss, scored)
        assert (divergence(LOGITS - 0.1 * gradient) < start - 1e-3) is lowers


def test_a_step_of_guidance_raises_the_teachers_token():
    """Eq. 3's sign: taken literally, as a quantity to maximise, it would unlearn it."""
    _, gradient = through_kernel(GuidedPolicyLoss(guidance_weight=1.0), one_position())
    assert torch.log_softmax(LOGITS - 0.1 * gradient[0], -1)[TEACHER] > torch.log_softmax(LOGITS, -1)[TEACHER]


def test_guidance_of_a_copy_of_the_policy_is_minus_the_log_of_its_largest_probability():
    logits = random_logits(6, 9)
    best = logits.argmax(-1)
    rows = [one_position(targets=(0, int(label))) for label in best]
    values = [
        through_kernel(GuidedPolicyLoss(guidance_weight=1.0), row, z)[0] for row, z in zip(rows, logits, strict=True)
    ]
    torch.testing.assert_close(torch.tensor(values).double(), -torch.log_softmax(logits, -1).amax(-1))
