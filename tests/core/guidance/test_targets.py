"""Targets, masks and the top-k loss: values and gradients against autograd in float64 and literal vectors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from tgpo_ray.guidance import (
    argmax_targets,
    fused_topk_guidance_loss,
    guidance_loss_from_logits,
    guidance_mask,
    merge_duplicate_targets,
    sampled_targets,
    topk_guidance_loss,
    topk_guidance_loss_from_logits,
    topk_targets,
)

# One position of four tokens: p = softmax(LOGITS), q = softmax(TEACHER). The gradients below come from central
# differences of the plain formulas.
LOGITS = torch.tensor([1.0, 0.5, -0.5, 0.0], dtype=torch.float64)
TEACHER = torch.tensor([-1.0, 2.0, 0.0, 0.5], dtype=torch.float64)
P = torch.tensor([0.45505423, 0.27600434, 0.10153632, 0.1674051], dtype=torch.float64)
Q = torch.tensor([0.03535379, 0.71009992, 0.09610157, 0.15844471], dtype=torch.float64)


def gradient(loss_of, *leaves: Tensor) -> tuple[Tensor, ...]:
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)
    return torch.autograd.grad(loss_of(*leaves).sum(), leaves)


def random_case(*shape: int, k: int = 4, vocabulary: int = 11) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """logits (..., V), ids (..., k) with some -1, the teacher's log-probs (..., k), mask (...)."""
    generator = torch.Generator().manual_seed(3)
    logits, teacher = (torch.randn(*shape, vocabulary, generator=generator).double() for _ in range(2))
    ids, logprobs = topk_targets(teacher, k)
    ids = ids.masked_fill(torch.rand(ids.shape, generator=generator) < 0.25, -1)
    ids.view(-1, k)[0] = -1  # a position without any target
    return logits, ids, logprobs, (torch.rand(*shape, generator=generator) > 0.3).double()


def test_guidance_has_its_published_gradient():
    grads = gradient(lambda z: 0.002 * guidance_loss_from_logits(z, torch.tensor(1)), LOGITS)
    expected = torch.tensor([0.00091011, -0.00144799, 0.00020307, 0.00033481], dtype=torch.float64)
    torch.testing.assert_close(grads[0], expected, atol=5e-9, rtol=0.0)


def test_the_whole_tgpo_gradient_is_the_policys_plus_the_guidances():
    """A = 1, ratio 1: on disagreement e_{y^T} is lifted directly; on agreement TGPO is GRPO with advantage A + w."""

    def total(z: Tensor, teacher_id: int) -> Tensor:
        return -torch.log_softmax(z, -1)[0] + 0.002 * guidance_loss_from_logits(z, torch.tensor(teacher_id))

    expected = torch.tensor([-0.54403566, 0.27455635, 0.1017394, 0.16773991], dtype=torch.float64)
    torch.testing.assert_close(gradient(lambda z: total(z, 1), LOGITS)[0], expected, atol=5e-9, rtol=0.0)
    first = torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(gradient(lambda z: total(z, 0), LOGITS)[0], -1.002 * (first - torch.softmax(LOGITS, -1)))


def test_topk_without_renormalizing_has_its_published_value_and_gradient():
    ids, logprobs = topk_targets(TEACHER, 2)
    assert ids.tolist() == [1, 3]
    torch.testing.assert_close(logprobs.exp(), Q[ids], atol=1e-8, rtol=0.0)

    def loss(z: Tensor) -> Tensor:
        return topk_guidance_loss_from_logits(z, ids, logprobs, renormalize=False)

    assert loss(LOGITS).item() == pytest.approx(0.66232049, abs=1e-8)
    expected = torch.tensor([0.39523491, -0.47037783, 0.08818883, -0.01304591], dtype=torch.float64)
    torch.testing.assert_close(gradient(loss, LOGITS)[0], expected, atol=5e-9, rtol=0.0)


def test_topk_renormalized_moves_mass_inside_the_k_alone():
    ids, logprobs = topk_targets(TEACHER, 2)
    p, q = P[ids] / P[ids].sum(), Q[ids] / Q[ids].sum()
    (grads,) = gradient(lambda z: topk_guidance_loss_from_logits(z, ids, logprobs), LOGITS)
    torch.testing.assert_close(grads[ids], p - q, atol=2e-8, rtol=0.0)
    assert grads[[0, 2]].abs().max() < 1e-15
    loss = topk_guidance_loss_from_logits(LOGITS, ids, logprobs)
    torch.testing.assert_close(loss, (q * (q / p).log()).sum(), atol=2e-8, rtol=0.0)


def test_topk_over_the_whole_vocabulary_is_the_full_forward_kl():
    ids, logprobs = topk_targets(TEACHER, 4)
    for renormalize in (True, False):
        loss = topk_guidance_loss_from_logits(LOGITS, ids, logprobs, renormalize=renormalize)
        assert loss.item() == pytest.approx(0.56670453, abs=1e-8)
        (grads,) = gradient(
            lambda z, r=renormalize: topk_guidance_loss_from_logits(z, ids, logprobs, renormalize=r), LOGITS
        )
        torch.testing.assert_close(grads, P - Q, atol=2e-8, rtol=0.0)


@pytest.mark.parametrize("renormalize", [True, False])
def test_topk_gradients_match_central_differences(renormalize):
    logits, ids, logprobs, mask = random_case(2, 3)
    assert torch.autograd.gradcheck(
        lambda z: topk_guidance_loss_from_logits(z, ids, logprobs, mask, renormalize=renormalize),
        logits.requires_grad_(),
    )


@pytest.mark.parametrize("renormalize", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_the_fused_topk_loss_equals_the_one_from_logits(renormalize, temperature):
    _, ids, logprobs, mask = random_case(2, 5)
    generator = torch.Generator().manual_seed(5)
    hidden = torch.randn(2, 5, 8, generator=generator).double()
    weight = torch.randn(11, 8, generator=generator).double()

    def fused(h: Tensor, w: Tensor) -> Tensor:
        return fused_topk_guidance_loss(h, w, ids, logprobs, mask, renormalize=renormalize, temperature=temperature)

    def full(h: Tensor, w: Tensor) -> Tensor:
        return topk_guidance_loss_from_logits(h @ w.t() / temperature, ids, logprobs, mask, renormalize=renormalize)

    torch.testing.assert_close(fused(hidden, weight), full(hidden, weight).sum())
    torch.testing.assert_close(gradient(fused, hidden, weight), gradient(full, hidden, weight))


@pytest.mark.parametrize("renormalize", [True, False])
def test_entries_that_are_left_out_do_no_harm(renormalize):
    policy = torch.log(torch.tensor([[0.5, 0.2, 0.1], [0.1, 0.1, 0.1]]))
    teacher = torch.tensor([[-1.0, -2.0, -torch.inf], [-torch.inf, -torch.inf, -torch.inf]])
    leaf = policy.clone().requires_grad_()
    loss = topk_guidance_loss(leaf, teacher, torch.tensor([1.0, 1.0]), renormalize=renormalize)
    shorter = topk_guidance_loss(policy[:1, :2], teacher[:1, :2], torch.ones(1), renormalize=renormalize)
    by_entry = topk_guidance_loss(
        policy, torch.full_like(teacher, -1.0).where(teacher == -torch.inf, teacher),
        torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]), renormalize=renormalize,
    )  # fmt: skip
    assert loss[1] == 0.0
    torch.testing.assert_close(loss[:1], shorter)
    torch.testing.assert_close(loss, by_entry)
    loss.sum().backward()
    assert leaf.grad is not None and leaf.grad.isfinite().all() and (leaf.grad[1] == 0).all() and leaf.grad[0, 2] == 0


def test_a_teacher_like_the_policy_has_nothing_to_teach():
    ids, logprobs = topk_targets(LOGITS, 3)
    (grads,) = gradient(lambda z: topk_guidance_loss_from_logits(z, ids, logprobs), LOGITS)
    assert grads.abs().max() < 1e-15
    assert topk_guidance_loss_from_logits(LOGITS, ids, logprobs).abs() < 1e-15


def test_equal_targets_are_added_up_in_the_first_of_them():
    ids = torch.tensor([[7, 3, 7, -1], [2, 2, 2, 5]])
    merged, logprobs = merge_duplicate_targets(ids, torch.tensor([[0.5, 0.3, 0.1, 0.05], [0.1, 0.2, 0.3, 0.4]]).log())
    assert merged.tolist() == [[7, 3, -1, -1], [2, -1, -1, 5]]
    expected = torch.tensor([[0.6, 0.3, 0.0, 0.0], [0.6, 0.0, 0.0, 0.4]])
    torch.testing.assert_close(logprobs.exp(), expected)
    alone, same = merge_duplicate_targets(ids[:, 1:2], torch.zeros(2, 1))
    assert alone.tolist() == [[3], [2]] and same.tolist() == [[0.0], [0.0]]


def test_targets_are_the_teachers_argmax_sample_and_top_k():
    assert argmax_targets(TEACHER) == 1
    generator = torch.Generator().manual_seed(0)
    drawn = sampled_targets(TEACHER.expand(2, 4000, 4), generator=generator)
    assert drawn.shape == (2, 4000)
    shares = torch.bincount(drawn.flatten(), minlength=4) / 8000
    assert (shares - Q).abs().max() < 4 * math.sqrt(0.25 / 8000)
    cold = sampled_targets(TEACHER.expand(50, 4), temperature=0.01, generator=generator)
    assert (cold == 1).all() and sampled_targets(TEACHER, generator=generator).shape == ()


def test_sampled_targets_give_the_forward_kl_gradient_in_expectation():
    """sum_y q_y (p - e_y) = p - q."""
    grads = [gradient(lambda z, y=y: guidance_loss_from_logits(z, torch.tensor(y)), LOGITS)[0] for y in range(4)]
    torch.testing.assert_close(sum(Q[y] * g for y, g in enumerate(grads)), P - Q, atol=2e-8, rtol=0.0)


def test_the_mask_leaves_out_what_the_policy_cannot_write():
    ids = torch.tensor([3, -1, 9, 10, 8, 7])
    response = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    assert guidance_mask(ids).tolist() == [1, 0, 1, 1, 1, 1]
    assert guidance_mask(ids, response, vocab_size=10).tolist() == [1, 0, 1, 0, 1, 0]
    # 8 and 9 are special tokens, 8 is the end of sequence: it may be taught
    mask = guidance_mask(ids, response, vocab_size=10, special_ids=[8, 9], eos_ids=[8])
    assert mask.tolist() == [1, 0, 0, 0, 1, 0] and mask.dtype == torch.float32
    assert guidance_mask(ids, eos_ids=[8], mask_eos=True).tolist() == [1, 0, 1, 1, 0, 1]
    sampled = torch.tensor([8, 1, 1, 1, 1, 1])
    assert guidance_mask(ids, eos_ids=[8], mask_eos=True, sampled_ids=sampled).tolist() == [0, 0, 1, 1, 0, 1]
    several = guidance_mask(ids.view(3, 2), torch.tensor([[1.0], [0.0], [1.0]]), dtype=torch.float64)
    assert several.tolist() == [[1, 0], [0, 0], [1, 1]] and several.dtype == torch.float64


def test_what_cannot_be_is_named():
    with pytest.raises(ValueError, match=r"k must be in 1..4, the vocabulary's size, got 5"):
        topk_targets(LOGITS, 5)
    with pytest.raises(ValueError, match=r"temperature must be > 0, got 0\.0"):
        sampled_targets(LOGITS, temperature=0.0)
    with pytest.raises(ValueError, match="mask_eos needs eos_ids"):
        guidance_mask(torch.tensor([1]), mask_eos=True)
    with pytest.raises(ValueError, match=r"teacher id 4 is outside \[0, 4\)"):
        guidance_loss_from_logits(LOGITS, torch.tensor(4))
    with pytest.raises(ValueError, match=r"teacher id 9 is outside \[0, 4\)"):
        topk_guidance_loss_from_logits(LOGITS, torch.tensor([1, 9]), torch.zeros(2))
