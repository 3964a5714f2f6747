"""The doors to the fused kernel (head module, log-probabilities, rows), its buffers, and its messages."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor, nn

from tgpo_ray.algorithms.token_losses import PolicyLoss, SFTLoss
from tgpo_ray.kernels import FusedHead, TokenLoss, TokenRows, chunked_logprobs, fused_token_loss
from tgpo_ray.kernels.chunks import release_buffers

N, D, V = 23, 8, 41


def make_rows(num_rows: int = N, dtype: torch.dtype = torch.float64) -> TokenRows:
    generator = torch.Generator().manual_seed(1)
    return TokenRows(
        targets=torch.randint(0, V, (num_rows, 2), generator=generator),
        target_mask=(torch.rand(num_rows, 2, generator=generator) > 0.2).to(dtype),
        advantages=torch.randn(num_rows, generator=generator).to(dtype),
        old_logprobs=(-3.7 + torch.randn(num_rows, generator=generator)).to(dtype),
        sequence=torch.arange(num_rows) // 5,
        lengths=torch.full((num_rows,), 5.0, dtype=dtype),
    )


def make_head() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(2)
    hidden, weight, bias = (torch.randn(s, generator=generator, dtype=torch.float64) for s in ((N, D), (V, D), (V,)))
    return hidden.requires_grad_(), weight.requires_grad_(), bias.requires_grad_()


def close(left, right, tolerance=1e-9):
    torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


class WrongShapeLoss(TokenLoss):
    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        return logprobs


def test_torch_softmax_may_write_over_its_input():
    """The kernel stands on this, which torch does not document."""
    logits = torch.randn(5, 1003, generator=torch.Generator().manual_seed(0)) * 4
    expected = torch.softmax(logits, -1)
    assert torch.equal(torch.softmax(logits, -1, out=logits), expected)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_chunked_logprobs_equal_log_softmax(temperature):
    hidden, weight, bias = make_head()
    targets = make_rows().targets
    log_p = torch.log_softmax((hidden @ weight.t() + bias) / temperature, -1).detach()
    expected, entropies = log_p.gather(1, targets), -(log_p.exp() * log_p).sum(-1)
    logprobs, none = chunked_logprobs(hidden, weight, targets, temperature=temperature, bias=bias, chunk_bytes=2000)
    again, entropy = chunked_logprobs(
        hidden, weight, targets, temperature=temperature, bias=bias, with_entropy=True, chunk_bytes=2000
    )
    close([logprobs, again, entropy], [expected, expected, entropies])
    assert none is None and not logprobs.requires_grad


def test_fused_head_replaces_a_linear_layer_and_shares_its_parameter():
    linear = nn.Linear(D, V, dtype=torch.float64)
    head = FusedHead.from_linear(linear)
    hidden, rows = make_head()[0], make_rows()
    assert head.weight is linear.weight and head.bias is linear.bias and head.state_dict().keys() == {"weight", "bias"}
    close(head(hidden), linear(hidden))
    close(head(hidden, targets=rows.targets)[0], torch.log_softmax(linear(hidden), -1).gather(1, rows.targets).detach())
    head(hidden, rows, PolicyLoss()).loss.backward()
    assert linear.weight.grad is not None and linear.bias.grad is not None
    with pytest.raises(ValueError, match="rows with loss, or targets"):
        head(hidden, rows)


class NestedLoss(TokenLoss):
    """Uses the kernel inside the kernel: the outer chunk's buffer must not be touched."""

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        hidden, weight, _ = make_head()
        chunked_logprobs(-hidden.detach(), weight.detach(), make_rows().targets)
        return -logprobs[:, 0] * rows.mask


def test_a_call_within_a_call_gets_its_own_buffer():
    hidden, weight, _ = make_head()
    for _ in range(2):  # the second finds a kept buffer
        nested = fused_token_loss(hidden, weight, make_rows(), NestedLoss())
        plain = fused_token_loss(hidden, weight, make_rows(), SFTLoss())
        leaves = (hidden, weight)
        assert torch.equal(nested.loss, plain.loss)
        close(torch.autograd.grad(nested.loss, leaves), torch.autograd.grad(plain.loss, leaves), 1e-12)


def test_memory_does_not_grow_with_the_rows():
    """The logits buffer is the kernel's only large one: beyond it and the gradients stays less than one more chunk."""
    peaks = []
    for num_rows in (512, 2048):
        hidden, weight = torch.randn(num_rows, 4).requires_grad_(), torch.randn(2000, 4).requires_grad_()
        rows = make_rows(num_rows, torch.float32)
        release_buffers()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            torch.autograd.grad(fused_token_loss(hidden, weight, rows, PolicyLoss(), chunk_bytes=1 << 18).loss, hidden)
        assert profile.profiler is not None and profile.profiler.kineto_results is not None
        live = peak = 0
        for event in profile.profiler.kineto_results.events():
            if event.name() == "[memory]":
                live += event.nbytes()  # pyright: ignore[reportAttributeAccessIssue] (missing in the stub)
                peak = max(peak, live)
        peaks.append(peak - num_rows * (4 + 2) * 4)  # dHidden and the log-probabilities do grow
    release_buffers()
    assert peaks[0] > 1 << 17 and max(peaks) < 2 << 18
    assert abs(peaks[1] - peaks[0]) < 1 << 16


def test_bad_input_is_named():
    hidden, weight, bias = make_head()
    rows = make_rows()
    beyond = rows.replace(targets=rows.targets.clone().fill_(V))
    with pytest.raises(ValueError, match=r"target 41 is outside \[0, 41\)"):
        fused_token_loss(hidden, weight, beyond, SFTLoss())
    with pytest.raises(ValueError, match=r"target -1 is outside"):
        fused_token_loss(hidden, weight, rows.replace(targets=rows.targets * 0 - 1), SFTLoss())
    with pytest.raises(ValueError, match=r"hidden must be \(N, D\)"):
        fused_token_loss(hidden[None], weight, rows, SFTLoss())
    with pytest.raises(ValueError, match="one row for each hidden state"):
        fused_token_loss(hidden[1:], weight, rows, SFTLoss())
    with pytest.raises(ValueError, match="bias must be"):
        fused_token_loss(hidden, weight, rows, SFTLoss(), bias=bias[1:])
    with pytest.raises(ValueError, match="temperature must be > 0, got 0"):
        fused_token_loss(hidden, weight, rows, SFTLoss(), temperature=0.0)
    with pytest.raises(ValueError, match="one loss for each row"):
        fused_token_loss(hidden, weight, rows, WrongShapeLoss())


def test_rows_slice_and_copy_keep_all_fields():
    rows = make_rows().with_extra(teacher_logprobs=torch.arange(N))
    part = rows.slice(2, 5)
    assert (
        len(part) == 3 and part.extra["teacher_logprobs"].tolist() == [2, 3, 4] and part.sequence.tolist() == [0, 0, 0]
    )
    assert {f.name for f in dataclasses.fields(part)} == {f.name for f in dataclasses.fields(rows)}
    assert rows.replace(old_logprobs=None).slice(0, 1).old_logprobs is None
