"""Guidance as a loss and as reward shaping, used without any other part of the package."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import Tensor

from tgpo_ray.guidance import fused_guidance_loss, guidance_advantage, guidance_loss, guidance_loss_from_logits

LOGITS = torch.tensor([1.0, 0.5, -0.5, 0.0], dtype=torch.float64)


def expected_policy_gradient(signal: str, teacher_id: int) -> Tensor:
    """E over a ~ p of the gradient of -s(a) log p_a, the shaping term taken as the whole advantage."""
    logits = LOGITS.clone().requires_grad_()
    log_p = torch.log_softmax(logits, -1)
    shaping = guidance_advantage(
        log_p[teacher_id].expand(4),
        torch.ones(4, dtype=torch.float64),
        signal=signal,  # type: ignore[arg-type]
        sampled_ids=torch.arange(4),
        teacher_ids=torch.full((4,), teacher_id),
    )
    return torch.autograd.grad(-(log_p.exp().detach() * shaping * log_p).sum(), logits)[0]


def test_guidance_loss_is_the_masked_negative_log_probability():
    loss = guidance_loss(torch.tensor([-0.5, -2.0, -3.0]), torch.tensor([1.0, 1.0, 0.0]))
    torch.testing.assert_close(loss, torch.tensor([0.5, 2.0, 0.0]))


def test_one_step_on_guidance_makes_the_teacher_token_likelier():
    """The sign: the paper prints the opposite one, which unlearns the token."""
    logits = LOGITS.clone().requires_grad_()
    guidance_loss_from_logits(logits, torch.tensor(2)).backward()
    assert logits.grad is not None
    after = LOGITS - 0.1 * logits.grad
    assert torch.log_softmax(after, -1)[2] > torch.log_softmax(LOGITS, -1)[2]


def test_guidance_loss_from_logits_is_cross_entropy_without_the_missing_teacher_tokens():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 5, 7, generator=generator)
    ids, mask = torch.randint(0, 7, (2, 5), generator=generator), torch.ones(2, 5)
    ids[0, 1], mask[1, 3] = -1, 0.0
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids.flatten(), reduction="none", ignore_index=-1)
    expected = expected.view(2, 5) * mask
    torch.testing.assert_close(guidance_loss_from_logits(logits, ids, mask), expected)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_fused_guidance_loss_equals_the_one_from_logits(temperature):
    generator = torch.Generator().manual_seed(1)
    hidden = torch.randn(2, 6, 8, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(31, 8, generator=generator, dtype=torch.float64).requires_grad_()
    ids = torch.randint(-1, 31, (2, 6), generator=generator)
    mask = (torch.rand(2, 6, generator=generator) > 0.3).double()
    fused = fused_guidance_loss(hidden, weight, ids, mask, temperature=temperature)
    full = guidance_loss_from_logits(hidden @ weight.t() / temperature, ids, mask).sum()
    torch.testing.assert_close(fused, full)
    leaves = (hidden, weight)
    torch.testing.assert_close(torch.autograd.grad(fused, leaves), torch.autograd.grad(full, leaves))


def test_guidance_by_a_copy_of_the_policy_costs_its_greedy_log_probability():
    log_p = torch.log_softmax(LOGITS, -1)
    loss = guidance_loss_from_logits(LOGITS[None], LOGITS.argmax()[None])
    torch.testing.assert_close(loss[0], -log_p.max())


def test_advantage_signals_have_their_ranges_and_no_gradient():
    logprobs = torch.tensor([-0.5, -2.0, -1.0], requires_grad=True)
    mask = torch.tensor([1.0, 1.0, 0.0])
    ids = torch.tensor([4, 5, 6])
    logp = guidance_advantage(logprobs, mask, signal="logp")
    prob = guidance_advantage(logprobs, mask, signal="prob")
    match = guidance_advantage(logprobs, mask, signal="match", sampled_ids=ids, teacher_ids=torch.tensor([4, 0, 6]))
    assert logp.tolist() == [-0.5, -2.0, 0.0] and match.tolist() == [1.0, 0.0, 0.0]
    torch.testing.assert_close(prob, torch.tensor([0.60653066, 0.13533528, 0.0]))
    assert not (logp.requires_grad or prob.requires_grad or match.requires_grad)


@pytest.mark.parametrize("signal", ["logp", "prob"])
def test_shaping_that_sees_the_state_alone_has_no_expected_gradient(signal):
    torch.testing.assert_close(expected_policy_gradient(signal, 1), torch.zeros(4, dtype=torch.float64))


def test_shaping_by_match_is_guidance_weighted_by_the_policys_own_probability():
    p, teacher_id = torch.softmax(LOGITS, -1), 1
    expected = p[teacher_id] * (p - torch.eye(4, dtype=torch.float64)[teacher_id])
    torch.testing.assert_close(expected_policy_gradient("match", teacher_id), expected)


def test_unknown_signal_and_missing_ids_are_named():
    zeros = torch.zeros(1)
    with pytest.raises(ValueError, match="signal must be one of logp, prob, match, got 'entropy'"):
        guidance_advantage(zeros, zeros, signal="entropy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="pass sampled_ids and teacher_ids"):
        guidance_advantage(zeros, zeros, signal="match")


@pytest.mark.parametrize("module", ["tgpo_ray.guidance", "tgpo_ray.kernels"])
def test_import_needs_torch_alone(module):
    heavy = (
        "ray",
        "transformers",
        "vllm",
        "deepspeed",
        "gymnasium",
        "pydantic",
        "tgpo_ray.envs",
        "tgpo_ray.algorithms",
    )
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
