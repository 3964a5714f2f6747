"""The fused LM-head loss equals full autograd, whatever the chunks, the order of the rows and the precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from tgpo_ray.algorithms.losses import clipped_policy_loss
from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss, PolicyLoss, SFTLoss
from tgpo_ray.kernels import FusedHead, TokenLoss, TokenRows, fused_token_loss, token_loss_pass

N, D, V = 23, 8, 41
ROW_BYTES = V * 8  # float64


@dataclass(frozen=True)
class EverythingLoss(TokenLoss):
    """Every kind of dependence at once: clipped ratio, renormalised top-2 cross-entropy, squared log-prob, entropy."""

    needs_entropy = True  # pyright: ignore[reportAssignmentType, reportIncompatibleMethodOverride]

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        assert entropy is not None
        policy = clipped_policy_loss(logprobs[:, 0], rows.old_logprobs, rows.advantages, 0.2, 0.2)
        top = torch.log_softmax(logprobs[:, 1:], -1)
        return rows.mask * (policy - 0.3 * top[:, 0] + logprobs[:, 2].square() - 0.1 * entropy * entropy)


@dataclass(frozen=True)
class SequenceRatioLoss(TokenLoss):
    """-A_i s_i over sequences, s_i = exp(mean_t log-ratio): the gradient of each token needs all of its sequence."""

    needs_sequence: ClassVar[bool] = True

    def prepare(self, logprobs: Tensor, rows: TokenRows) -> TokenRows:
        return rows.with_extra(weight=self.ratio(logprobs, rows)[rows.sequence] * rows.advantages / rows.lengths)

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        return -rows.extra["weight"] * rows.mask * logprobs[:, 0]

    @staticmethod
    def ratio(logprobs: Tensor, rows: TokenRows) -> Tensor:
        assert rows.old_logprobs is not None
        logs = rows.mask * (logprobs[:, 0] - rows.old_logprobs) / rows.lengths
        return torch.exp(torch.zeros(int(rows.sequence.max()) + 1, dtype=logs.dtype).index_add(0, rows.sequence, logs))


class NothingLoss(TokenLoss):
    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        return rows.advantages


def make_rows(num_rows: int = N, num_targets: int = 3, dtype: torch.dtype = torch.float64) -> TokenRows:
    generator = torch.Generator().manual_seed(1)
    mask = (torch.rand(num_rows, num_targets, generator=generator) > 0.2).to(dtype)
    return TokenRows(
        targets=torch.randint(0, V, (num_rows, num_targets), generator=generator),
        target_mask=mask * mask[:, :1],
        advantages=torch.randn(num_rows, generator=generator).to(dtype),
        old_logprobs=(-3.7 + torch.randn(num_rows, generator=generator)).to(dtype),
        sequence=torch.arange(num_rows) // 5,
        lengths=torch.full((num_rows,), 5.0, dtype=dtype),
    )


def make_head(dtype: torch.dtype = torch.float64, *, scale: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    hidden = scale * torch.randn(N, D, generator=generator)
    weight, bias = torch.randn(V, D, generator=generator), torch.randn(V, generator=generator)
    return tuple(tensor.to(dtype).requires_grad_() for tensor in (hidden, weight, bias))  # type: ignore[return-value]


def widened(tensor: Tensor) -> Tensor:
    return tensor.detach().double().requires_grad_()


def full_loss(hidden, weight, rows, loss, temperature=1.0, bias=None):
    """The same loss through full logits and autograd."""
    logits = hidden @ weight.t()
    log_p = torch.log_softmax((logits if bias is None else logits + bias) / temperature, -1)
    entropy = -(log_p.exp() * log_p).sum(-1)
    return loss(log_p.gather(1, rows.targets), entropy, rows).sum(), log_p.gather(1, rows.targets), entropy


def close(left, right, tolerance=1e-9):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


LOSSES = {
    "sft": SFTLoss(),
    "policy": PolicyLoss(),
    "policy with entropy": PolicyLoss(entropy_weight=0.1, dual_clip=3.0),
    "entropy only tracked": PolicyLoss(track_entropy=True),
    "guided": GuidedPolicyLoss(guidance_weight=0.3, entropy_weight=0.1),
    "everything": EverythingLoss(),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("with_bias", [False, True], ids=["plain", "bias"])
def test_loss_and_gradients_equal_full_autograd(loss, temperature, with_bias):
    hidden, weight, bias = make_head()
    rows, bias = make_rows(), bias if with_bias else None
    leaves = [leaf for leaf in (hidden, weight, bias) if leaf is not None]
    output = fused_token_loss(hidden, weight, rows, loss, temperature=temperature, bias=bias, chunk_bytes=6 * ROW_BYTES)
    expected, logprobs, entropy = full_loss(hidden, weight, rows, loss, temperature, bias)
    close(output.loss, expected)
    close(output.logprobs, logprobs)
    if output.entropy is not None:
        close(output.entropy, entropy)
    assert (output.entropy is not None) == loss.needs_entropy
    close(torch.autograd.grad(output.loss * 1.5, leaves), torch.autograd.grad(expected * 1.5, leaves))


@pytest.mark.parametrize("chunk_rows", [1, 2, 7, 22, 23, 1000])
def test_chunk_size_changes_nothing(chunk_rows):
    hidden, weight, _ = make_head()
    results = []
    for chunk_bytes in (None, chunk_rows * ROW_BYTES * 2):
        output = fused_token_loss(hidden, weight, make_rows(), EverythingLoss(), chunk_bytes=chunk_bytes)
        results.append((output.loss, output.logprobs, *torch.autograd.grad(output.loss, (hidden, weight))))
    close(results[0], results[1], 1e-11)


def test_order_of_rows_changes_nothing():
    hidden, weight, _ = make_head()
    rows, order = make_rows(), torch.randperm(N, generator=torch.Generator().manual_seed(3))
    shuffled = rows.map(lambda tensor: tensor[order])
    straight = fused_token_loss(hidden, weight, rows, EverythingLoss())
    permuted = fused_token_loss(hidden[order], weight, shuffled, EverythingLoss())
    close(straight.loss, permuted.loss, 1e-11)
    leaves = (hidden, weight)
    close(torch.autograd.grad(straight.loss, leaves), torch.autograd.grad(permuted.loss, leaves), 1e-11)


def test_masked_rows_and_splits_into_micro_batches_change_nothing():
    hidden, weight, _ = make_head()
    rows, loss, leaves = make_rows(), GuidedPolicyLoss(entropy_weight=0.1), (hidden, weight)
    whole = torch.autograd.grad(fused_token_loss(hidden, weight, rows, loss).loss, leaves)
    kept = rows.mask.bool()
    dense = rows.map(lambda tensor: tensor[kept])
    without_padding = torch.autograd.grad(fused_token_loss(hidden[kept], weight, dense, loss).loss, leaves)
    parts = [fused_token_loss(hidden[a:b], weight, rows.slice(a, b), loss).loss for a, b in ((0, 4), (4, 19), (19, N))]
    close(without_padding, whole, 1e-11)
    close(torch.autograd.grad(torch.stack(parts).sum(), leaves), whole, 1e-11)


def test_tied_weights_get_the_gradient_of_both_uses():
    _, weight, _ = make_head()
    ids, rows, loss = torch.arange(N) % V, make_rows(), GuidedPolicyLoss()
    fused = fused_token_loss(torch.tanh(weight[ids]), weight, rows, loss).loss
    full = full_loss(torch.tanh(weight[ids]), weight, rows, loss)[0]
    close(torch.autograd.grad(fused, weight), torch.autograd.grad(full, weight))


@pytest.mark.parametrize("frozen", ["hidden", "weight"])
def test_a_frozen_side_gets_no_gradient_and_the_other_all_of_it(frozen):
    hidden, weight, _ = make_head()
    free = weight if frozen == "hidden" else hidden
    (hidden if frozen == "hidden" else weight).requires_grad_(False)
    output = fused_token_loss(hidden, weight, make_rows(), EverythingLoss())
    output.loss.backward()
    close(free.grad, torch.autograd.grad(full_loss(hidden, weight, make_rows(), EverythingLoss())[0], free)[0])
    assert (hidden if frozen == "hidden" else weight).grad is None


def test_improbable_targets_keep_exact_log_probabilities():
    """At a scale where the float32 softmax underflows the fused way has no answer: the exact passes take over."""
    hidden, weight, _ = make_head(torch.float32, scale=100.0)
    rows = make_rows(dtype=torch.float32)
    wide = widened(hidden), widened(weight)
    output = fused_token_loss(hidden, weight, rows, SFTLoss())
    expected, logprobs, _ = full_loss(*wide, make_rows(), SFTLoss())
    assert float(output.logprobs.min()) < -200.0
    torch.testing.assert_close(output.logprobs.double(), logprobs, rtol=1e-5, atol=1e-3)
    gradients = [gradient.double() for gradient in torch.autograd.grad(output.loss, (hidden, weight))]
    torch.testing.assert_close(gradients, list(torch.autograd.grad(expected, wide)), rtol=1e-4, atol=1e-2)


def test_float32_gradients_agree_with_float64():
    hidden, weight, _ = make_head(torch.float32)
    output = fused_token_loss(hidden, weight, make_rows(dtype=torch.float32), EverythingLoss())
    wide = widened(hidden), widened(weight)
    expected = torch.autograd.grad(full_loss(*wide, make_rows(), EverythingLoss())[0], wide)
    for got, want in zip(torch.autograd.grad(output.loss, (hidden, weight)), expected, strict=True):
        assert float((got.double() - want).norm() / want.norm()) < 1e-5


@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32], ids=["bf16 weight", "autocast"])
def test_half_precision_sums_in_float32_and_returns_the_dtypes_of_its_inputs(weight_dtype):
    hidden, weight, _ = make_head(torch.bfloat16)
    weight = weight.detach().to(weight_dtype).requires_grad_()
    rows = make_rows(dtype=torch.float32)
    output = fused_token_loss(hidden, weight, rows, EverythingLoss(), chunk_bytes=4000)
    gradients = torch.autograd.grad(output.loss, (hidden, weight))
    assert output.loss.dtype == output.logprobs.dtype == torch.float32
    assert [gradient.dtype for gradient in gradients] == [torch.bfloat16, weight_dtype]
    wide = widened(hidden), widened(weight)
    expected = torch.autograd.grad(full_loss(*wide, make_rows(), EverythingLoss())[0], wide)
    for got, want in zip(gradients, expected, strict=True):
        assert float((got.double() - want).norm() / want.norm()) < 0.02


def test_autocast_does_not_reach_the_kernel():
    hidden, weight, _ = make_head(torch.float32)
    rows = make_rows(dtype=torch.float32)
    plain = fused_token_loss(hidden, weight, rows, PolicyLoss())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = fused_token_loss(hidden, weight, rows, PolicyLoss())
    assert torch.equal(plain.logprobs, cast.logprobs)


def test_sequence_level_loss_equals_full_autograd():
    hidden, weight, _ = make_head()
    rows, head = make_rows(), FusedHead(nn.Parameter(weight.detach()))
    rows = rows.replace(advantages=torch.tensor([0.5, -1.0, 2.0, 0.1, -0.3], dtype=torch.float64)[rows.sequence])
    output = token_loss_pass(head, hidden, rows, SequenceRatioLoss(), temperature=0.7)
    got = torch.autograd.grad(output.loss, (hidden, head.weight))
    ratios = SequenceRatioLoss.ratio(full_loss(hidden, weight, rows, SFTLoss(), 0.7)[1], rows)  # (B,) with gradient
    expected = -(ratios * rows.advantages[::5]).sum()
    close(got, torch.autograd.grad(expected, (hidden, weight)))
    assert "weight" in output.rows.extra and "weight" not in rows.extra


def test_no_rows_give_a_zero_loss_that_still_reaches_the_weights():
    hidden, weight, _ = make_head()
    output = fused_token_loss(hidden[:0], weight, make_rows().slice(0, 0), EverythingLoss())
    output.loss.backward()
    assert output.loss.item() == 0.0 and output.logprobs.shape == (0, 3)
    assert weight.grad is not None and not weight.grad.any() and hidden.grad is not None


def test_a_loss_of_constants_has_zero_gradient():
    hidden, weight, _ = make_head()
    output = fused_token_loss(hidden, weight, make_rows(), NothingLoss())
    output.loss.backward()
    close(output.loss, make_rows().advantages.sum())
    assert weight.grad is not None and not weight.grad.any() and hidden.grad is not None and not hidden.grad.any()


def test_without_grad_mode_the_loss_comes_alone():
    hidden, weight, _ = make_head()
    with torch.no_grad():
        output = fused_token_loss(hidden, weight, make_rows(), EverythingLoss())
    assert not output.loss.requires_grad
    close(output.loss, full_loss(hidden, weight, make_rows(), EverythingLoss())[0].detach())


def test_the_gradient_is_handed_over_once():
    hidden, weight, _ = make_head()
    loss = fused_token_loss(hidden, weight, make_rows(), SFTLoss()).loss
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="already handed over"):
        loss.backward()
