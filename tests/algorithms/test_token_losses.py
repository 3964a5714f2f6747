"""The token losses through the fused kernel: the fixed vector of one position, and what must not change a bit."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from tests.algorithms.oracles import (
    FIXED,
    LOG_Q,
    SAMPLED,
    TEACHER,
    TEACHER_LOGITS,
    P,
    assert_oracle,
    one_hot,
    one_position,
    through_kernel,
)
from tgpo_ray.algorithms.tgpor import ShapedPolicyLoss
from tgpo_ray.algorithms.token_losses import (
    REFERENCE,
    GuidedPolicyLoss,
    PolicyLoss,
    SFTLoss,
    SoftGuidedPolicyLoss,
)
from tgpo_ray.kernels import TokenLoss, TokenRows, fused_token_loss


def random_rows(num_rows: int, vocabulary: int, num_targets: int, dtype: torch.dtype = torch.float32) -> TokenRows:
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(num_rows, 2, generator=generator) > 0.2).to(dtype)
    mask[:, 1] *= mask[:, 0]
    return TokenRows(
        targets=torch.randint(0, vocabulary, (num_rows, 2), generator=generator)[:, :num_targets],
        target_mask=mask[:, :num_targets],
        advantages=torch.randn(num_rows, generator=generator).to(dtype),
        old_logprobs=(-3 + torch.randn(num_rows, generator=generator)).to(dtype),
        sequence=torch.arange(num_rows) // 4,
        lengths=torch.full((num_rows,), 4.0, dtype=dtype),
    )


@pytest.mark.parametrize(
    ("name", "loss", "advantage"),
    [
        ("policy", PolicyLoss(), 1.0),
        ("guidance", GuidedPolicyLoss(guidance_weight=2e-3), 0.0),
        ("tgpo", GuidedPolicyLoss(guidance_weight=2e-3), 1.0),
        ("tgpor_logp", ShapedPolicyLoss(shaping_weight=0.02, signal="logp"), 1.0),
        ("entropy", PolicyLoss(entropy_weight=1e-3), 0.0),
        ("k1", PolicyLoss(kl_weight=1.0, kl_estimator="k1"), 0.0),
        ("k2", PolicyLoss(kl_weight=1.0, kl_estimator="k2"), 0.0),
        ("k2", PolicyLoss(kl_weight=1.0, kl_estimator="k1", kl_as="advantage"), 0.0),
        ("k3", PolicyLoss(kl_weight=1.0, kl_estimator="k3"), 0.0),
    ],
)
def test_losses_have_the_gradients_of_the_fixed_vector(name: str, loss: TokenLoss, advantage: float):
    rows = one_position(advantage).with_extra(**{REFERENCE: LOG_Q[[SAMPLED]]})
    assert_oracle(through_kernel(loss, rows), FIXED[name])


def test_soft_guidance_moves_probability_within_the_teachers_top_k_alone():
    """FKL on K, both renormalised: p_K / sum - q_K / sum on K, 0 elsewhere."""
    best = LOG_Q.topk(2)
    rows = one_position(targets=(SAMPLED, *best.indices.tolist()))
    rows = rows.with_extra(**{"teacher.topk_logprobs": best.values[None]})
    value, gradient = through_kernel(SoftGuidedPolicyLoss(guidance_weight=1.0), rows)
    q, p = best.values.softmax(-1), P[best.indices] / P[best.indices].sum()
    assert value == pytest.approx((q * (q / p).log()).sum().item(), abs=1e-12)
    expected = torch.zeros(4, dtype=torch.float64).index_add(0, best.indices, p - q)
    torch.testing.assert_close(gradient[0], expected)
    assert best.indices[0] == TEACHER == TEACHER_LOGITS.argmax()


def test_sft_raises_the_given_token():
    torch.testing.assert_close(through_kernel(SFTLoss(), one_position())[1][0], P - one_hot(SAMPLED))


def test_on_agreement_tgpo_is_grpo_with_a_larger_advantage():
    guided = through_kernel(GuidedPolicyLoss(guidance_weight=0.1), one_position(0.5, targets=(SAMPLED, SAMPLED)))
    torch.testing.assert_close(guided[1], through_kernel(PolicyLoss(), one_position(0.6))[1])


@pytest.mark.parametrize("entropy_weight", [0.0, 1e-3])
@pytest.mark.parametrize("strictly_on_policy", [False, True])
def test_zero_guidance_weight_is_bit_identical_to_grpo(entropy_weight, strictly_on_policy):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(64, 16, generator=generator).requires_grad_()
    weight = torch.randn(300, 16, generator=generator).requires_grad_()
    results = []
    for loss, num_targets in (
        (PolicyLoss(entropy_weight=entropy_weight), 1),
        (GuidedPolicyLoss(entropy_weight=entropy_weight, guidance_weight=0.0), 2),
    ):
        rows = random_rows(64, 300, num_targets)
        rows = rows.replace(old_logprobs=None) if strictly_on_policy else rows
        output = fused_token_loss(hidden, weight, rows, loss, temperature=0.7, chunk_bytes=300 * 4 * 10)
        results.append((output.loss, output.logprobs[:, 0], *torch.autograd.grad(output.loss, (hidden, weight))))
    for grpo, tgpo in zip(*results, strict=True):
        assert torch.equal(grpo, tgpo)


def test_equal_rewards_still_leave_a_guidance_gradient():
    rows = random_rows(8, 4, 2, torch.float64)
    rows = rows.replace(advantages=torch.zeros_like(rows.advantages))
    hidden = torch.randn(8, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    gradients = [
        torch.autograd.grad(fused_token_loss(hidden, torch.eye(4, dtype=torch.float64), rows, loss).loss, hidden)[0]
        for loss in (PolicyLoss(), GuidedPolicyLoss())
    ]
    assert not gradients[0].any() and gradients[1].any()


def test_sequence_normalization_gives_each_response_the_same_weight():
    """Responses of 1 and 3 tokens, Z / B = 2: the tokens weigh 2/1 and 2/3, so that each response weighs Z / B."""
    rows = random_rows(4, 5, 2, torch.float64).replace(
        target_mask=torch.ones(4, 2, dtype=torch.float64),
        advantages=torch.zeros(4, dtype=torch.float64),
        old_logprobs=None,
        lengths=torch.tensor([1.0, 3.0, 3.0, 3.0], dtype=torch.float64),
    )
    logprobs = torch.full((4, 2), -1.0, dtype=torch.float64)
    loss = GuidedPolicyLoss(guidance_weight=1.0, normalization="sequence", mean_length=2.0)
    torch.testing.assert_close(loss(logprobs, None, rows), torch.tensor([2, 2 / 3, 2 / 3, 2 / 3], dtype=torch.float64))
    token = GuidedPolicyLoss(guidance_weight=1.0)(logprobs, None, rows)
    torch.testing.assert_close(token, torch.ones(4, dtype=torch.float64))


def test_wrong_normalization_is_refused():
    with pytest.raises(ValueError, match="normalization must be 'token' or 'sequence', got 'batch'"):
        GuidedPolicyLoss(normalization="batch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="mean_length must be > 0"):
        GuidedPolicyLoss(normalization="sequence")


def test_metrics_are_sums_and_counts_over_the_right_tokens():
    rows = TokenRows(
        targets=torch.tensor([[1, 1], [2, 3], [2, 0], [9, 9]]),
        target_mask=torch.tensor([[1.0, 1.0], [1.0, 1.0], [1.0, 0.0], [0.0, 0.0]]),
        advantages=torch.ones(4),
        old_logprobs=torch.tensor([-1.0, -1.0 - math.log(2.0), -1.0, -1.0]),
        sequence=torch.zeros(4, dtype=torch.long),
        lengths=torch.full((4,), 3.0),
    )
    logprobs = torch.tensor([[-1.0, -1.0], [-1.0, -3.0], [-1.0, -7.0], [-1.0, -9.0]])
    entropy = torch.tensor([1.0, 2.0, 3.0, 50.0])
    metrics = GuidedPolicyLoss(track_entropy=True).metrics(logprobs, entropy, rows)
    values = {name: (total.item(), count.item()) for name, (total, count) in metrics.items()}
    assert values["guidance/nll"] == (4.0, 2.0)  # 1 + 3 over the guided tokens
    assert values["guidance/agreement"] == (1.0, 2.0)
    assert values["guidance/coverage"] == (2.0, 3.0)
    assert values["policy/clip_fraction"] == (1.0, 3.0)  # ratios 1, 2, 1
    assert values["policy/ratio_deviation"] == pytest.approx((1.0, 3.0))
    assert values["policy/old_kl"] == pytest.approx((1.0 - math.log(2.0), 3.0))  # r - 1 - log r at r = 2
    assert values["policy/entropy"] == (6.0, 3.0)
    assert SFTLoss().metrics(logprobs, None, rows)["loss/sft"] == (torch.tensor(3.0), torch.tensor(3.0))


def test_entropy_is_asked_for_only_where_it_is_used():
    assert not PolicyLoss().needs_entropy and not SFTLoss().needs_entropy
    assert PolicyLoss(entropy_weight=1e-3).needs_entropy and PolicyLoss(track_entropy=True).needs_entropy


def test_losses_travel_between_processes():
    loss = GuidedPolicyLoss(guidance_weight=0.5, normalization="sequence", mean_length=7.0)
    assert pickle.loads(pickle.dumps(loss)) == loss
