"""Every policy-gradient loss on random logits through the fused kernel: value and gradient equal full autograd of the
formula, written here a second time, to 1e-6."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from tests.algorithms.oracles import (
    assert_same,
    central_differences,
    random_logits,
    random_rows,
    through_autograd,
    through_kernel,
)
from tgpo_ray.algorithms.tgpor import ShapedPolicyLoss
from tgpo_ray.algorithms.token_losses import (
    REFERENCE,
    SAMPLER,
    GuidedPolicyLoss,
    PolicyLoss,
    SFTLoss,
    SoftGuidedPolicyLoss,
)
from tgpo_ray.kernels import TokenLoss, TokenRows

NUM_ROWS, VOCABULARY, K = 12, 7, 3
LOGITS = random_logits(NUM_ROWS, VOCABULARY)
TEACHER = torch.log_softmax(random_logits(NUM_ROWS, VOCABULARY, seed=9), -1)  # (N, V), also serves as the reference


def rows_with(num_targets: int = 2) -> TokenRows:
    rows = random_rows(NUM_ROWS, VOCABULARY, num_targets)
    assert rows.old_logprobs is not None
    noise = 0.4 * torch.randn(NUM_ROWS, generator=torch.Generator().manual_seed(5)).double()
    extra = {REFERENCE: at(TEACHER, rows.targets[:, 0]), SAMPLER: rows.old_logprobs + noise}
    return rows.with_extra(**extra)


def soft_rows() -> TokenRows:
    best = TEACHER.topk(K)
    rows = rows_with()
    mask = rows.mask[:, None] * torch.ones(NUM_ROWS, 1 + K, dtype=torch.float64)
    mask[3, 2] = 0.0  # a token that the policy lacks
    targets = torch.cat([rows.targets[:, :1], best.indices], 1)
    return rows.replace(targets=targets, target_mask=mask).with_extra(**{"teacher.topk_logprobs": best.values})


def at(values: Tensor, ids: Tensor) -> Tensor:
    return values.gather(1, ids[:, None])[:, 0]


def sampled(log_p: Tensor, rows: TokenRows) -> Tensor:
    return at(log_p, rows.targets[:, 0])


def entropy(log_p: Tensor) -> Tensor:
    return -(log_p.exp() * log_p).sum(-1)


def surrogate(log_p: Tensor, rows: TokenRows, advantages: Tensor, low: float = 0.2, high: float = 0.2) -> Tensor:
    """PPO's clip case by case: -A r where a gradient is left, else the bound."""
    assert rows.old_logprobs is not None
    r = torch.exp(sampled(log_p, rows) - rows.old_logprobs)
    bound = torch.where(advantages > 0, 1 + high, 1 - low)
    beyond = torch.where(advantages > 0, r > bound, r < bound)
    return -advantages * torch.where(beyond, bound, r)


def grpo(log_p: Tensor, rows: TokenRows) -> Tensor:
    return rows.mask * (surrogate(log_p, rows, rows.advantages) - 0.01 * entropy(log_p))


def dapo(log_p: Tensor, rows: TokenRows) -> Tensor:
    losses = surrogate(log_p, rows, rows.advantages, 0.2, 0.28)
    bounded = (rows.advantages < 0) & (losses > -rows.advantages * 1.1)
    return rows.mask * torch.where(bounded, -rows.advantages * 1.1, losses)


def deepseek(log_p: Tensor, rows: TokenRows) -> Tensor:
    log_ratio = rows.extra[REFERENCE] - sampled(log_p, rows)
    k3 = log_ratio.exp() - 1 - log_ratio
    return rows.mask / rows.lengths.clamp(min=1) * (surrogate(log_p, rows, rows.advantages) + 0.04 * k3)


def k2(log_p: Tensor, rows: TokenRows) -> Tensor:
    penalty = 0.5 * (rows.extra[REFERENCE] - sampled(log_p, rows)) ** 2
    return rows.mask * (surrogate(log_p, rows, rows.advantages) + 0.1 * penalty)


def k1_advantage(log_p: Tensor, rows: TokenRows) -> Tensor:
    assert rows.old_logprobs is not None
    return rows.mask * surrogate(log_p, rows, rows.advantages - 0.1 * (rows.old_logprobs - rows.extra[REFERENCE]))


def truncated(log_p: Tensor, rows: TokenRows) -> Tensor:
    assert rows.old_logprobs is not None
    weights = torch.exp(rows.old_logprobs - rows.extra[SAMPLER]).clamp(max=1.2)
    return rows.mask * weights * surrogate(log_p, rows, rows.advantages)


def per_sequence_weight(log_p: Tensor, rows: TokenRows) -> Tensor:
    assert rows.old_logprobs is not None
    gaps = rows.mask * (rows.old_logprobs - rows.extra[SAMPLER])
    sums = torch.stack([gaps[rows.sequence == i].sum() for i in rows.sequence])
    return rows.mask * sums.exp().clamp(max=1.2) * surrogate(log_p, rows, rows.advantages)


def guided(log_p: Tensor, rows: TokenRows) -> Tensor:
    guidance = -rows.target_mask[:, 1] * at(log_p, rows.targets[:, 1])
    return rows.mask * surrogate(log_p, rows, rows.advantages) + 0.3 * guidance


def guided_by_sequence(log_p: Tensor, rows: TokenRows) -> Tensor:
    guidance = -rows.target_mask[:, 1] * at(log_p, rows.targets[:, 1]) * 3.5 / rows.lengths.clamp(min=1)
    return rows.mask * surrogate(log_p, rows, rows.advantages) + 0.3 * guidance


def softly_guided(log_p: Tensor, rows: TokenRows) -> Tensor:
    there = rows.target_mask[:, 1:]
    log_q = rows.extra["teacher.topk_logprobs"]
    q, p = there * log_q.exp(), there * log_p.gather(1, rows.targets[:, 1:]).exp()
    q, p = q / q.sum(-1, keepdim=True).clamp(min=1e-9), p / p.sum(-1, keepdim=True).clamp(min=1e-9)
    terms = torch.where(there > 0, q * (q.clamp(min=1e-30).log() - p.clamp(min=1e-30).log()), 0.0)
    return rows.mask * surrogate(log_p, rows, rows.advantages) + 0.3 * terms.sum(-1)


def shaped(signal: str) -> Callable[[Tensor, TokenRows], Tensor]:
    def formula(log_p: Tensor, rows: TokenRows) -> Tensor:
        teacher = at(log_p, rows.targets[:, 1]).detach()
        same = (rows.targets[:, 0] == rows.targets[:, 1]).double()
        term = {"logp": teacher, "prob": teacher.exp(), "match": same}[signal]
        return rows.mask * surrogate(log_p, rows, rows.advantages + 0.3 * rows.target_mask[:, 1] * term)

    return formula


@dataclass
class Case:
    loss: TokenLoss
    formula: Callable[[Tensor, TokenRows], Tensor]
    rows: Callable[[], TokenRows] = rows_with


CASES = {
    "sft": Case(SFTLoss(), lambda log_p, rows: -rows.mask * sampled(log_p, rows)),
    "grpo": Case(PolicyLoss(entropy_weight=0.01), grpo),
    "dapo": Case(PolicyLoss(clip_high=0.28, dual_clip=1.1), dapo),
    "deepseek": Case(PolicyLoss(per_sequence=True, kl_weight=0.04), deepseek),
    "k2": Case(PolicyLoss(kl_weight=0.1, kl_estimator="k2"), k2),
    "k1 as advantage": Case(PolicyLoss(kl_weight=0.1, kl_estimator="k1", kl_as="advantage"), k1_advantage),
    "truncated importance": Case(PolicyLoss(importance="truncated", importance_cap=1.2), truncated),
    "sequence importance": Case(PolicyLoss(importance="sequence", importance_cap=1.2), per_sequence_weight),
    "tgpo": Case(GuidedPolicyLoss(guidance_weight=0.3), guided),
    "tgpo by sequence": Case(
        GuidedPolicyLoss(guidance_weight=0.3, normalization="sequence", mean_length=3.5), guided_by_sequence
    ),
    "tgpo top-k": Case(SoftGuidedPolicyLoss(guidance_weight=0.3), softly_guided, soft_rows),
    **{
        f"tgpor {signal}": Case(ShapedPolicyLoss(shaping_weight=0.3, signal=signal), shaped(signal))
        for signal in ("logp", "prob", "match")
    },
}


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_kernel_equals_autograd_of_the_formula(case, temperature):
    rows = case.rows()
    expected = through_autograd(lambda log_p: case.formula(log_p, rows), LOGITS / temperature)
    value, gradient = through_kernel(case.loss, rows, LOGITS, temperature=temperature)
    assert_same((value, gradient * temperature), expected)
    assert bool(gradient.any())


@pytest.mark.parametrize("name", ["grpo", "dapo", "deepseek", "k2", "tgpo by sequence", "tgpo top-k"])
def test_gradient_is_the_slope_of_the_value(name):
    """Numerically, for the losses that hold nothing fixed."""
    case = CASES[name]
    rows, logits = case.rows().slice(0, 4), LOGITS[:4]
    slope = central_differences(lambda z: through_kernel(case.loss, rows, z)[0], logits)
    torch.testing.assert_close(through_kernel(case.loss, rows, logits)[1], slope, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("name", ["sft", "grpo", "deepseek", "k2", "tgpo", "tgpo by sequence", "tgpo top-k"])
def test_a_small_step_lowers_the_quantity_that_is_minimised(name):
    case = CASES[name]
    rows = case.rows()
    value, gradient = through_kernel(case.loss, rows, LOGITS)
    assert through_kernel(case.loss, rows, LOGITS - 1e-3 * gradient)[0] < value


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_masked_rows_contribute_nothing(case):
    rows = case.rows()
    _, gradient = through_kernel(case.loss, rows, LOGITS)
    assert not gradient[rows.mask == 0].any()
    assert through_kernel(case.loss, rows.replace(target_mask=0 * rows.target_mask), LOGITS)[0] == 0.0


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_order_of_the_responses_and_the_split_into_micro_batches_change_nothing(case):
    rows = case.rows()
    value, gradient = through_kernel(case.loss, rows, LOGITS)
    order = torch.cat([torch.arange(start, start + 4) for start in (8, 0, 4)])
    moved = through_kernel(case.loss, rows.map(lambda tensor: tensor[order]), LOGITS[order], chunk_rows=5)
    assert moved[0] == pytest.approx(value, abs=1e-12)
    torch.testing.assert_close(moved[1], gradient[order], atol=1e-12, rtol=0)
    parts = [through_kernel(case.loss, rows.slice(a, b), LOGITS[a:b]) for a, b in ((0, 4), (4, 12))]
    assert parts[0][0] + parts[1][0] == pytest.approx(value, abs=1e-12)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), gradient, atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "loss",
    [
        GuidedPolicyLoss(guidance_weight=0.0, entropy_weight=0.01),
        ShapedPolicyLoss(shaping_weight=0.0, entropy_weight=0.01),
        PolicyLoss(kl_weight=0.0, kl_estimator="k2", entropy_weight=0.01),
    ],
    ids=["w", "lambda", "beta"],
)
@pytest.mark.parametrize("strictly_on_policy", [False, True])
def test_zero_weight_is_bit_identical_to_grpo(loss, strictly_on_policy):
    rows = rows_with()
    rows = rows.replace(old_logprobs=None) if strictly_on_policy else rows
    expected, got = (through_kernel(it, rows, LOGITS) for it in (PolicyLoss(entropy_weight=0.01), loss))
    assert got[0] == expected[0] and torch.equal(got[1], expected[1])


def test_a_reference_that_failed_leaves_its_rows_without_kl():
    rows = rows_with()
    failed = rows.extra[REFERENCE].clone()
    failed[4:8] = torch.nan
    rows = rows.with_extra(**{REFERENCE: failed})
    as_advantage = PolicyLoss(kl_weight=0.5, kl_estimator="k1", kl_as="advantage")
    for loss in (PolicyLoss(kl_weight=0.5, kl_estimator="k3"), as_advantage):
        _, gradient = through_kernel(loss, rows, LOGITS)
        _, plain = through_kernel(PolicyLoss(), rows, LOGITS)
        assert torch.equal(gradient[4:8], plain[4:8])
        assert bool(torch.isfinite(gradient).all()) and not torch.equal(gradient, plain)
    total, count = PolicyLoss(kl_weight=0.5).metrics(rows.targets * 0.0 - 1.0, None, rows)["policy/reference_kl"]
    assert bool(torch.isfinite(total)) and count == rows.mask.sum() - rows.mask[4:8].sum()


def test_without_old_logprobs_the_importance_weight_is_that_of_the_present_policy():
    rows = rows_with().replace(old_logprobs=None)
    log_p = torch.log_softmax(LOGITS, -1)
    weights = torch.exp(sampled(log_p, rows) - rows.extra[SAMPLER]).clamp(max=1.2)
    _, gradient = through_kernel(PolicyLoss(importance="truncated", importance_cap=1.2), rows, LOGITS)
    _, plain = through_kernel(PolicyLoss(), rows, LOGITS)
    torch.testing.assert_close(gradient, weights[:, None] * plain)


def test_losses_say_which_fields_they_read():
    assert PolicyLoss().row_fields == () and not PolicyLoss().needs_sequence
    assert PolicyLoss(kl_weight=0.1).row_fields == (REFERENCE,)
    loss = SoftGuidedPolicyLoss(kl_weight=0.1, importance="sequence")
    assert loss.row_fields == ("teacher.topk_logprobs", REFERENCE, SAMPLER)
    assert loss.needs_sequence and loss.corrects_sampler and not PolicyLoss().corrects_sampler
