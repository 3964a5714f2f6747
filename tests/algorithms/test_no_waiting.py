"""No loss or metric waits for a GPU: on the meta device, whose tensors have no numbers, a look at one is an error."""

from __future__ import annotations

import contextlib

import pytest
import torch

from tests.algorithms.losses_by_name import LOSSES, VOCABULARY, rows_with_everything, teacher_head
from tgpo_ray.kernels import FusedHead, HeadWeights, token_loss_pass

ROWS = rows_with_everything()


@pytest.fixture
def on_meta(monkeypatch: pytest.MonkeyPatch) -> None:
    """torch has no autocast for the meta device. `torch.tensor` would wait for a GPU to copy its numbers there."""
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(torch, "tensor", lambda *_, **__: pytest.fail("numbers of Python go to the device"))


@pytest.mark.usefixtures("on_meta")
@pytest.mark.parametrize("name", LOSSES)
def test_loss_gradient_and_metrics_read_no_number_of_the_device(name: str):
    loss, rows = LOSSES[name](), ROWS.to("meta")
    head = FusedHead(torch.nn.Parameter(torch.empty(VOCABULARY, VOCABULARY, device="meta", dtype=torch.float64)))
    hidden = torch.empty(len(rows), VOCABULARY, device="meta", dtype=torch.float64, requires_grad=True)
    output = token_loss_pass(head, hidden, rows, loss, teacher_head=HeadWeights(teacher_head().to("meta")))
    output.loss.backward()
    assert hidden.grad is not None and head.weight.grad is not None
    for total, count in loss.metrics(output.logprobs, output.entropy, output.rows).values():
        assert total.shape == count.shape == ()
        assert total.device == count.device == hidden.device
    assert all(value.device == hidden.device for value in output.sums(loss).values())
