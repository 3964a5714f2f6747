"""Figures of guidance on literal inputs, their sums over micro-batches, and gradient norms against autograd."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tgpo_ray.guidance import (
    UNREADABLE_LOGPROB,
    GuidanceBatch,
    by_position,
    compare_parameter_gradients,
    diagnostic_sums,
    gradient_ratio,
    guidance_diagnostics,
    guidance_loss_from_logits,
    hidden_gradient_norms,
    histogram_quantile,
    kl_k3,
    log_ratio,
    log_ratio_histogram,
    log_ratio_quantile,
    logit_gradient_norms,
    policy_argmax,
    positions_in_sequence,
    zero_advantage_taught,
)
from tgpo_ray.kernels import TokenRows

NAN = math.nan


def literal_batch() -> GuidanceBatch:
    """Two responses of 4 and 2 tokens; token 3 was written by the environment."""
    return GuidanceBatch(
        mask=torch.tensor([1.0, 1.0, 1.0, 0.0, 1.0, 1.0]),
        sampled_ids=torch.tensor([1, 2, 3, 4, 5, 6]),
        teacher_ids=torch.tensor([1, 9, -1, 4, 5, 12]),
        guidance_logprobs=torch.tensor([-1.0, -2.0, NAN, NAN, -3.0, -9.0]),
        logprobs=torch.tensor([-1.0, -0.5, -2.0, NAN, -3.0, -0.25]),
        teacher_logprobs=torch.tensor([-0.5, -6.5, -2.0, NAN, -1.0, -0.25]),
        target_logprobs=torch.log(torch.tensor([0.9, 0.6, 0.5, 0.1, 0.8, 0.7])),
        policy_argmax=torch.tensor([1, 9, 3, 4, 0, 6]),
        advantages=torch.tensor([0.0, 0.0, 0.0, 0.0, 2.0, 2.0]),
        groups=torch.tensor([7, 7, 7, 7, 3, 3]),
        positions=torch.tensor([0, 1, 2, 3, 0, 1]),
        vocab_size=10,
    )


def test_every_figure_of_a_literal_batch():
    figures = guidance_diagnostics(literal_batch(), guidance_weight=0.1, edges=(2,), bound=5.0)
    # guided: tokens 0, 1, 4 (2 has no id, 3 is the environment's, 5 is past the vocabulary of 10)
    ratios = [-0.5, 6.0, 0.0, -2.0, 0.0]
    guidance_norms = 0.1 * sum(1.0 - math.exp(x) for x in (-1.0, -2.0, -3.0))
    policy_norms = 2.0 * sum(1.0 - math.exp(x) for x in (-3.0, -0.25))
    expected = {
        "guidance/coverage": 3 / 5,
        "guidance/out_of_vocabulary": 2 / 5,
        "guidance/agreement": 2 / 3,
        "guidance/agreement/0-1": 2 / 3,
        "guidance/argmax_agreement": 2 / 3,
        "guidance/argmax_agreement/0-1": 2 / 3,
        "guidance/nll": 2.0,
        "guidance/confidence_where_different": 0.6,
        "guidance/log_ratio": sum(ratios) / 5,
        "guidance/log_ratio/0-1": (-0.5 + 6.0 - 2.0) / 4,
        "guidance/log_ratio/2+": 0.0,
        "guidance/log_ratio_p95": 6.0,
        "guidance/log_ratio_above": 1 / 5,
        "guidance/kl_k3": sum(math.exp(-x) - 1.0 + x for x in ratios) / 5,
        "guidance/zero_advantage_taught": 1.0,
        "guidance/gradient_ratio": guidance_norms / policy_norms,
        "guidance/gradient_norm": guidance_norms / 5,
        "policy/gradient_norm": policy_norms / 5,
        "guidance/confidence": (0.9 + 0.6 + 0.8) / 3,
    }
    assert figures == pytest.approx(expected, abs=1e-6)


def test_top_k_agreement_counts_the_guided_tokens_that_are_among_the_teachers_likeliest():
    topk = torch.tensor([[1, 2], [9, 3], [3, 3], [4, 0], [7, 5], [6, 12]])
    figures = guidance_diagnostics(replace(literal_batch(), topk_ids=topk))
    assert figures["guidance/topk_agreement"] == pytest.approx(2 / 3)  # tokens 0 and 4 of 0, 1, 4
    unknown = replace(literal_batch(), target_logprobs=torch.full((6,), NAN))
    assert "guidance/confidence" not in guidance_diagnostics(unknown)


def test_what_is_not_known_is_not_reported():
    batch = literal_batch()
    bare = GuidanceBatch(batch.mask, batch.sampled_ids, batch.teacher_ids)
    assert set(guidance_diagnostics(bare)) == {"guidance/coverage", "guidance/out_of_vocabulary", "guidance/agreement"}
    empty = guidance_diagnostics(replace(batch, mask=torch.zeros(6)))
    assert empty == {}  # nothing was counted, and nothing is NaN


def test_sums_of_parts_are_the_sums_of_the_whole():
    whole = literal_batch()
    tensors = {name: value for name, value in vars(whole).items() if isinstance(value, Tensor)}
    parts = [replace(whole, **{n: v[part] for n, v in tensors.items()}) for part in (slice(0, 4), slice(4, 6))]
    of_parts = [diagnostic_sums(part, guidance_weight=0.1) for part in parts]
    for name, (total, count) in diagnostic_sums(whole, guidance_weight=0.1).items():
        if name != "guidance/log_ratio_p95":  # a mean of quantiles is none
            torch.testing.assert_close(sum(sums[name][0] for sums in of_parts), total)
            torch.testing.assert_close(sum(sums[name][1] for sums in of_parts), count)


def test_rows_of_the_kernel_and_logits_give_the_same_figures():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, 8, generator=generator)
    sampled, teacher = (torch.randint(0, 8, (2, 3), generator=generator) for _ in range(2))
    teacher[0, 1], mask = -1, torch.tensor([[1.0, 1.0, 1.0], [1.0, 1.0, 0.0]])
    from_logits = GuidanceBatch.from_logits(logits, sampled, teacher, mask)
    targets = torch.stack([sampled.flatten(), teacher.clamp(min=0).flatten()], 1)
    rows = TokenRows(
        targets=targets,
        target_mask=torch.stack([mask.flatten(), (mask * (teacher >= 0)).flatten()], 1),
        advantages=torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0]),
        old_logprobs=None,
        sequence=torch.tensor([0, 0, 0, 1, 1, 1]),
        lengths=torch.tensor([3.0, 3.0, 3.0, 2.0, 2.0, 2.0]),
        extra={"teacher.teacher_logprobs": torch.full((6,), -1.0)},
    )
    logprobs = torch.log_softmax(logits.flatten(0, 1), -1).gather(1, targets)
    from_rows = GuidanceBatch.from_rows(logprobs, rows)
    left, right = guidance_diagnostics(from_logits), guidance_diagnostics(from_rows)
    shared = set(left) & set(right)
    assert {"guidance/nll", "guidance/agreement", "guidance/coverage", "guidance/agreement/0-63"} <= shared
    assert {name: left[name] for name in shared} == pytest.approx({name: right[name] for name in shared}, abs=1e-6)
    assert "guidance/argmax_agreement" in left and "guidance/log_ratio" in right
    assert right["guidance/zero_advantage_taught"] == 1.0

    alone = TokenRows(
        targets[:, :1], rows.target_mask[:, :1], rows.advantages, None, rows.sequence, rows.lengths, rows.extra
    )
    without_targets = guidance_diagnostics(GuidanceBatch.from_rows(logprobs[:, :1], alone))
    assert without_targets["guidance/coverage"] == 0.0 and "guidance/nll" not in without_targets
    assert without_targets["guidance/log_ratio"] == pytest.approx(float((logprobs[:5, 0] + 1.0).mean()))
    # not a number: the teacher failed; UNREADABLE_LOGPROB: it has no word for the token
    answers = torch.tensor([-1.0, NAN, UNREADABLE_LOGPROB, NAN, NAN, NAN])
    figures = guidance_diagnostics(
        GuidanceBatch.from_rows(logprobs, rows.with_extra(**{"teacher.teacher_logprobs": answers}))
    )
    assert figures["guidance/log_ratio"] == pytest.approx(float(logprobs[0, 0] + 1.0))


def test_a_copy_of_the_policy_agrees_with_its_argmax_everywhere():
    logits = torch.randn(4, 9, 16, generator=torch.Generator().manual_seed(1))
    sampled, mask = torch.randint(0, 16, (4, 9)), torch.ones(4, 9)
    batch = GuidanceBatch.from_logits(logits, sampled, logits.argmax(-1), mask)
    figures = guidance_diagnostics(replace(batch, teacher_logprobs=batch.logprobs))
    assert figures["guidance/argmax_agreement"] == 1.0
    assert figures["guidance/agreement"] == pytest.approx(float((sampled == logits.argmax(-1)).float().mean()))
    assert figures["guidance/nll"] == pytest.approx(float(-torch.log_softmax(logits, -1).amax(-1).mean()))
    assert figures["guidance/log_ratio"] == figures["guidance/kl_k3"] == figures["guidance/log_ratio_p95"] == 0.0


def test_positions_start_anew_with_each_response():
    assert positions_in_sequence(torch.tensor([0, 0, 0, 1, 1, 5])).tolist() == [0, 1, 2, 0, 1, 0]
    assert positions_in_sequence(torch.tensor([], dtype=torch.long)).tolist() == []


def test_stretches_of_the_response_add_up_to_all_of_it():
    values, positions = torch.arange(10.0), torch.arange(10)
    sums = by_position("x", values, torch.ones(10), positions, edges=(2, 5))
    assert {name: (float(s), float(c)) for name, (s, c) in sums.items()} == {
        "x/0-1": (1.0, 2.0),
        "x/2-4": (9.0, 3.0),
        "x/5+": (35.0, 5.0),
    }


def test_groups_without_advantage_are_counted_once_each():
    advantages = torch.tensor([0.0, 0.0, 1.0, -1.0, 0.0, 0.0, 0.0])
    guided, mask = torch.tensor([0.0, 1.0, 1.0, 1.0, 0.0, 0.0, 1.0]), torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    groups = torch.tensor([4, 4, 9, 9, 2, 2, 30])  # 4 and 2 have none; 30 holds no token of the policy's
    total, count = zero_advantage_taught(advantages, guided, mask, groups)
    assert (float(total), float(count)) == (1.0, 2.0)


def test_the_log_ratio_estimates_the_kl_and_its_tail():
    """Over all tokens of a vocabulary, weighted by p, both estimates are KL(p||q) exactly."""
    logits, teacher = torch.randn(2, 6, generator=torch.Generator().manual_seed(2)).double()
    log_p, log_q = torch.log_softmax(logits, -1), torch.log_softmax(teacher, -1)
    ratio, p = log_ratio(log_p, log_q), log_p.exp()
    kl = (p * (log_p - log_q)).sum()
    torch.testing.assert_close((p * ratio).sum(), kl)
    torch.testing.assert_close((p * kl_k3(ratio)).sum(), kl)
    assert (kl_k3(ratio) >= 0).all() and kl_k3(torch.tensor(-1e9)).isfinite()


def test_quantiles_are_exact_and_survive_addition_as_a_histogram():
    generator = torch.Generator().manual_seed(4)
    ratio = 3.0 * torch.randn(5000, generator=generator)
    mask = (torch.rand(5000, generator=generator) > 0.2).float()
    kept = ratio[mask > 0]
    expected = float(torch.quantile(kept, 0.95, interpolation="higher"))
    assert float(log_ratio_quantile(ratio, mask)) == pytest.approx(expected, abs=0.02)
    halves = log_ratio_histogram(ratio[:2500], mask[:2500]) + log_ratio_histogram(ratio[2500:], mask[2500:])
    assert int(halves.sum()) == len(kept)
    assert histogram_quantile(halves) == pytest.approx(expected, abs=0.1)
    assert float(log_ratio_quantile(torch.arange(1.0, 101.0), torch.ones(100))) == 95.0
    assert math.isnan(histogram_quantile(torch.zeros(400, dtype=torch.long)))
    assert math.isnan(float(log_ratio_quantile(ratio, torch.zeros(5000))))
    outside = log_ratio_histogram(torch.tensor([-99.0, 99.0]), torch.ones(2))
    assert outside[0] == outside[-1] == 1
    with pytest.raises(ValueError, match=r"q must be in \(0, 1\], got 95"):
        log_ratio_quantile(ratio, mask, 95)


def gradient_case() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """hidden (N, D), weight (V, D), targets (N, 2), coefficients (N, 2); one row has equal targets."""
    generator = torch.Generator().manual_seed(6)
    hidden, weight = (torch.randn(n, 5, generator=generator).double() for n in (7, 13))
    targets = torch.randint(0, 13, (7, 2), generator=generator)
    targets[0, 1] = targets[0, 0]
    return hidden, weight, targets, torch.randn(7, 2, generator=generator).double()


def test_gradient_norms_are_those_of_autograd():
    hidden, weight, targets, coefficients = gradient_case()
    leaf = hidden.clone().requires_grad_()
    logits = leaf @ weight.t() / 0.8
    loss = (coefficients * torch.log_softmax(logits, -1).gather(1, targets)).sum()
    by_logits, by_hidden = torch.autograd.grad(loss, (logits, leaf))
    torch.testing.assert_close(logit_gradient_norms(logits, targets, coefficients), by_logits.norm(dim=-1))
    norms = hidden_gradient_norms(hidden, weight, targets, coefficients, temperature=0.8)
    torch.testing.assert_close(norms, by_hidden.norm(dim=-1))
    with torch.no_grad():  # a loop logs its figures there
        torch.testing.assert_close(hidden_gradient_norms(hidden, weight, targets, coefficients, temperature=0.8), norms)


def test_the_cheap_gradient_norm_is_right_within_a_factor_of_root_two():
    logits = 3.0 * torch.randn(500, 9, generator=torch.Generator().manual_seed(7)).double()
    targets = torch.arange(500)[:, None] % 9
    exact = logit_gradient_norms(logits, targets, torch.full((500, 1), -0.3).double())
    logprobs = torch.log_softmax(logits, -1).gather(1, targets)[:, 0]
    for row in range(500):
        cheap, _ = gradient_ratio(logprobs[row], torch.tensor(0.3), logprobs[row], torch.tensor(1.0))
        assert cheap <= exact[row] * (1 + 1e-9) and exact[row] <= math.sqrt(2.0) * cheap * (1 + 1e-9)


def test_parameter_gradients_are_compared_exactly():
    generator = torch.Generator().manual_seed(8)
    layer = torch.nn.Linear(4, 6).double()
    unused = torch.nn.Parameter(torch.zeros(3).double())
    hidden = torch.randn(5, 4, generator=generator).double()
    ids = torch.arange(5)
    logits = layer(hidden)
    guidance = 0.5 * guidance_loss_from_logits(logits, ids).sum()
    policy = guidance_loss_from_logits(logits, ids).sum()
    same = compare_parameter_gradients(guidance, policy, [*layer.parameters(), unused])
    assert same.ratio == pytest.approx(0.5) and same.cosine == pytest.approx(1.0)
    against = compare_parameter_gradients(-guidance, policy, layer.parameters())
    assert against.cosine == pytest.approx(-1.0)
    nothing = compare_parameter_gradients(guidance, 0.0 * policy, layer.parameters())
    assert nothing.ratio == math.inf and nothing.cosine == 0.0
    guidance.backward()  # the graph is still there


def test_the_policys_argmax_needs_no_matrix_of_logits():
    hidden, weight, _, _ = gradient_case()
    assert policy_argmax(hidden, weight).tolist() == (hidden @ weight.t()).argmax(-1).tolist()
    assert len(policy_argmax(hidden[:0], weight)) == 0
