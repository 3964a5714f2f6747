"""RKL, OPDistill, KDRL and TrOPD: their losses against closed forms, through the kernel that training uses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.algorithms.oracles import (
    FIXED,
    LOG_P,
    LOG_Q,
    LOGITS,
    P_TRUST,
    SAMPLED,
    P,
    Q,
    assert_oracle,
    assert_same,
    expected_gradient,
    one_hot,
    one_position,
    random_logits,
    random_rows,
    through_autograd,
    through_kernel,
)
from tgpo_ray.algorithms.teacher_ratio import (
    TEACHER_LOGPROBS,
    TOPK_LOGPROBS,
    KDRLLoss,
    TeacherRatioLoss,
    TrustRegionLoss,
    discounted_returns,
)
from tgpo_ray.algorithms.token_losses import PolicyLoss
from tgpo_ray.guidance import UNREADABLE_LOGPROB
from tgpo_ray.kernels import TokenLoss, TokenRows


def taught(token: int = SAMPLED, *, advantage: float = 0.0, correct: float = 0.0) -> TokenRows:
    """The fixed vector with this token sampled and the teacher's word on it."""
    extra = {TEACHER_LOGPROBS: LOG_Q[[token]], "episode.correct": torch.tensor([correct], dtype=torch.float64)}
    return one_position(advantage, (token,), **extra)


def random_taught(*, seed: int = 0) -> TokenRows:
    """Random rows, one of them without an answer, one that the teacher cannot read, some of correct responses."""
    rows = random_rows(num_targets=1, seed=seed)
    teacher = torch.log_softmax(random_logits(seed=seed + 7), -1).gather(1, rows.targets)[:, 0]
    teacher[3], teacher[6] = torch.nan, UNREADABLE_LOGPROB
    return rows.with_extra(**{TEACHER_LOGPROBS: teacher, "episode.correct": (rows.sequence == 1).double()})


def divergence(logits: Tensor) -> float:
    """KL(p || q) with q the fixed teacher."""
    log_p = torch.log_softmax(logits, -1)
    return float((log_p.exp() * (log_p - LOG_Q)).sum())


# ---- RKL and OPDistill


def test_the_log_ratio_as_advantage_has_the_gradient_of_k2():
    assert_oracle(through_kernel(TeacherRatioLoss(), taught()), FIXED["k2"])


def test_the_expected_gradient_of_the_log_ratio_is_that_of_the_reverse_kl():
    expected = torch.tensor(FIXED["reverse_kl"].gradient, dtype=torch.float64)
    torch.testing.assert_close(expected_gradient(TeacherRatioLoss(), taught), expected, atol=2e-8, rtol=0)


@pytest.mark.parametrize("discount", [0.0, 0.9, 1.0])
def test_value_and_gradient_equal_autograd_on_random_logits(discount: float):
    rows, logits = random_taught(), random_logits()
    loss = TeacherRatioLoss(
        clip_low=0.2, clip_high=0.2, discount=discount, reward_weight=0.5, eos_ids=(2,), entropy_weight=0.01
    )
    old = rows.old_logprobs
    assert old is not None
    known = rows.mask * torch.isfinite(rows.extra[TEACHER_LOGPROBS]) * (rows.targets[:, 0] != 2)
    known[6] = 0.0  # unreadable
    ratio = torch.where(known > 0, rows.extra[TEACHER_LOGPROBS] - old, 0.0)
    signal = ratio.clone()
    for t in range(len(ratio) - 2, -1, -1):
        if rows.sequence[t] == rows.sequence[t + 1]:
            signal[t] += discount * signal[t + 1]
    advantages = 0.5 * rows.advantages + signal

    def formula(log_p: Tensor) -> Tensor:
        r = torch.exp(log_p.gather(1, rows.targets)[:, 0] - old)
        entropy = -(log_p.exp() * log_p).sum(-1)
        policy = torch.maximum(-advantages * r, -advantages * r.clamp(0.8, 1.2))
        return rows.mask * (policy - 0.01 * entropy)

    assert_same(through_kernel(loss, rows, logits), through_autograd(formula, logits))


def test_returns_stay_within_their_sequence():
    values, sequence = torch.tensor([1.0, 2.0, 4.0, 8.0, 16.0]), torch.tensor([0, 0, 0, 1, 1])
    # 1 + 2/2 + 4/4 = 3, 2 + 4/2 = 4, 4; 8 + 16/2 = 16, 16
    assert discounted_returns(values, sequence, 0.5).tolist() == [3.0, 4.0, 4.0, 16.0, 16.0]
    assert discounted_returns(values[:0], sequence[:0], 0.5).tolist() == []


def test_the_teachers_advantage_can_be_cut():
    rows = taught()  # d = log .0354 - log .4551 = -2.555
    _, gradient = through_kernel(TeacherRatioLoss(advantage_clip=1.0), rows)
    torch.testing.assert_close(gradient[0], one_hot(SAMPLED) - P)


# ---- KDRL


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_the_penalty_has_the_gradient_of_its_estimator(estimator):
    loss = KDRLLoss(distillation_weight=1.0, distillation_estimator=estimator)
    assert_oracle(through_kernel(loss, taught()), FIXED[estimator])


def test_k1_as_a_loss_has_no_teacher_in_its_gradient_and_is_refused():
    with pytest.raises(ValueError, match="distillation_estimator must be k2 or k3, got 'k1'"):
        KDRLLoss(distillation_estimator="k1")


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_penalty_value_and_gradient_equal_autograd_on_random_logits(estimator):
    rows, logits = random_taught(), random_logits()
    loss = KDRLLoss(distillation_weight=0.3, distillation_estimator=estimator, only_incorrect=True, eos_ids=(2,))
    known = rows.mask * torch.isfinite(rows.extra[TEACHER_LOGPROBS]) * (rows.targets[:, 0] != 2)
    known = known * (rows.sequence != 1)
    known[6] = 0.0
    teacher = torch.where(known > 0, rows.extra[TEACHER_LOGPROBS], 0.0)

    old = rows.old_logprobs
    assert old is not None

    def formula(log_p: Tensor) -> Tensor:
        sampled = log_p.gather(1, rows.targets)[:, 0]
        r = torch.exp(sampled - old)
        policy = torch.maximum(-rows.advantages * r, -rows.advantages * r.clamp(0.8, 1.2))
        d = teacher - sampled
        return rows.mask * policy + 0.3 * known * (d.square() / 2 if estimator == "k2" else d.exp() - 1 - d)

    assert_same(through_kernel(loss, rows, logits), through_autograd(formula, logits))


def test_shaping_and_joint_loss_have_the_same_gradient_on_policy():
    joint = through_kernel(KDRLLoss(distillation_weight=0.1), taught(advantage=1.0))[1]
    shaped = through_kernel(TeacherRatioLoss(reward_weight=1.0, ratio_weight=0.1), taught(advantage=1.0))[1]
    torch.testing.assert_close(joint, shaped)


def test_without_weight_it_is_grpo_bit_for_bit():
    rows, logits = random_taught(), random_logits()
    value, gradient = through_kernel(PolicyLoss(), rows, logits)
    for loss in (KDRLLoss(distillation_weight=0.0), TeacherRatioLoss(reward_weight=1.0, ratio_weight=0.0)):
        other_value, other_gradient = through_kernel(loss, rows, logits)
        assert value == other_value and torch.equal(gradient, other_gradient)


# ---- TrOPD


def trust_rows(token: int, *, uniform: float = 0.5, origin: int = 1) -> TokenRows:
    best = Q.topk(2).indices
    extra = {
        TEACHER_LOGPROBS: LOG_Q[[token]],
        TOPK_LOGPROBS: LOG_Q[best][None],
        "episode.origin": torch.tensor([origin]),
        "episode.uniform": torch.tensor([uniform], dtype=torch.float64),
    }
    return one_position(0.0, (token, *best.tolist()), **extra)


@pytest.mark.parametrize("token", range(4))
def test_a_trusted_token_gets_the_reverse_kl_gradient(token: int):
    rows = trust_rows(token, uniform=0.0)  # below every acceptance probability
    _, gradient = through_kernel(TrustRegionLoss(), rows)
    torch.testing.assert_close(gradient[0], (LOG_P - LOG_Q)[token] * (one_hot(token) - P))


def test_an_outlier_gets_the_forward_kl_on_the_teachers_best():
    rows = trust_rows(SAMPLED, uniform=0.999)  # accepted with probability 0.078
    assert_oracle(through_kernel(TrustRegionLoss(), rows), FIXED["forward_kl_top2"])
    assert through_kernel(TrustRegionLoss(outlier_weight=0.0), rows)[1].abs().max() == 0.0


@pytest.mark.parametrize("token", range(4))
def test_the_expected_gate_is_the_mean_of_the_drawn_one(token: int):
    gate = TrustRegionLoss()
    accepted = through_kernel(gate, trust_rows(token, uniform=0.0))[1]
    refused = through_kernel(gate, trust_rows(token, uniform=1.0))[1]
    mean = P_TRUST[token] * accepted + (1 - P_TRUST[token]) * refused
    expected = through_kernel(TrustRegionLoss(gate="expected"), trust_rows(token))[1]
    torch.testing.assert_close(expected, mean, atol=1e-7, rtol=0)


def test_a_threshold_decides_without_noise():
    above = through_kernel(TrustRegionLoss(gate="threshold", threshold=0.07), trust_rows(SAMPLED, uniform=1.0))[1]
    torch.testing.assert_close(above[0], (LOG_P - LOG_Q)[SAMPLED] * (one_hot(SAMPLED) - P))
    below = through_kernel(TrustRegionLoss(gate="threshold", threshold=0.08), trust_rows(SAMPLED, uniform=0.0))
    assert_oracle(below, FIXED["forward_kl_top2"])


def test_a_prefix_of_the_teacher_is_imitated():
    _, gradient = through_kernel(TrustRegionLoss(prefix_weight=0.5), trust_rows(2, origin=2))
    torch.testing.assert_close(gradient[0], 0.5 * (P - one_hot(2)))


def test_the_trusted_penalty_is_at_most_one_over_e_a_token():
    # E_a[M d] = sum_a min(p, q) log(p / q) <= sum_a p / e, as x log(1 / x) <= 1 / e
    for seed in range(50):
        log_p, log_q = torch.log_softmax(3 * random_logits(2, 9, seed=seed), -1)
        assert (torch.minimum(log_p.exp(), log_q.exp()) * (log_p - log_q)).sum() <= 1 / torch.e


# ---- all of them


def losses() -> list[TokenLoss]:
    return [TeacherRatioLoss(), KDRLLoss(distillation_weight=1.0), TrustRegionLoss(gate="expected")]


def all_fields(token: int) -> TokenRows:
    return trust_rows(token).with_extra(**{"episode.correct": torch.zeros(1, dtype=torch.float64)})


@pytest.mark.parametrize("loss", losses(), ids=lambda loss: type(loss).__name__)
def test_an_expected_step_lowers_the_divergence_from_the_teacher(loss: TokenLoss):
    before = divergence(LOGITS)
    assert divergence(LOGITS - 0.1 * expected_gradient(loss, all_fields)) < before


@pytest.mark.parametrize("loss", losses()[:2], ids=lambda loss: type(loss).__name__)
def test_a_teacher_that_is_the_policy_teaches_nothing(loss: TokenLoss):
    rows = all_fields(SAMPLED).with_extra(**{TEACHER_LOGPROBS: LOG_P[[SAMPLED]]})
    value, gradient = through_kernel(loss, rows)
    assert abs(value) < 1e-12 and gradient.abs().max() < 1e-12


@pytest.mark.parametrize("loss", losses(), ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("answer", [torch.nan, UNREADABLE_LOGPROB])
def test_rows_without_an_answer_have_no_teacher_term(loss: TokenLoss, answer: float):
    rows = all_fields(SAMPLED).with_extra(**{TEACHER_LOGPROBS: torch.tensor([answer], dtype=torch.float64)})
    value, gradient = through_kernel(loss, rows)
    assert value == 0.0 and gradient.abs().max() == 0.0
    metrics = loss.metrics(LOG_P[rows.targets], None, rows)
    assert all(torch.isfinite(total) for total, _ in metrics.values())
    assert metrics["guidance/scored"] == (0.0, 1.0)
