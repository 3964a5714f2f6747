"""What a run reports of its loss: the parts, weights included, add up to the quantity that an update minimises."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.algorithms.losses_by_name import (
    LOSSES,
    TEACHER_WIDTH,
    VOCABULARY,
    rows_with_everything,
    teacher_head,
    through_heads,
)
from tests.algorithms.oracles import LOG_P, LOG_Q, LOGITS, SAMPLED, TEACHER, P, one_position, random_logits
from tests.episodes import random_episode
from tgpo_ray.algorithms.token_losses import REFERENCE, GuidedPolicyLoss
from tgpo_ray.kernels import FusedHead, HeadWeights, TokenLoss, token_loss_pass
from tgpo_ray.learners.batch import TrainEpisode, build_batch
from tgpo_ray.reporting.metrics import METRICS


def test_the_parts_of_a_literal_example():
    """A = 2 on-policy; w = 0.1 on the teacher's token; k3 with weight 0.5; entropy with weight 0.01."""
    loss = GuidedPolicyLoss(guidance_weight=0.1, kl_weight=0.5, kl_estimator="k3", entropy_weight=0.01)
    rows = one_position(2.0).with_extra(**{REFERENCE: LOG_Q[[SAMPLED]]})
    head = FusedHead(torch.nn.Parameter(torch.eye(4, dtype=torch.float64)))
    sums = {name: float(value) for name, value in token_loss_pass(head, LOGITS[None], rows, loss).sums(loss).items()}
    log_ratio = float(LOG_Q[SAMPLED] - LOG_P[SAMPLED])  # log q/p = -2.555
    assert sums == pytest.approx(
        {
            "policy": -2.0,  # -A r, r = 1
            "guidance": 0.1 * -float(LOG_P[TEACHER]),
            "reference_kl": 0.5 * (math.exp(log_ratio) - 1.0 - log_ratio),
            "entropy": 0.01 * float((P * LOG_P).sum()),
            "total": sums["total"],
        }
    )
    assert sums.pop("total") == pytest.approx(sum(sums.values()), rel=1e-12)
    assert sums["guidance"] == pytest.approx(0.12873387, abs=1e-8)  # 0.1 * -log 0.27600434


@pytest.mark.parametrize("name", LOSSES)
def test_parts_add_up_to_the_total(name: str):
    loss = LOSSES[name]()
    sums = through_heads(loss, rows_with_everything()).sums(loss)
    total = sums.pop("total")
    assert total != 0.0 and not total.requires_grad
    if name not in ("sft", "process reward"):  # these have one part
        torch.testing.assert_close(sum(sums.values()), total)
    assert {f"loss/{part}" for part in sums} <= set(METRICS)


@pytest.mark.parametrize("name", LOSSES)
def test_parts_do_not_depend_on_how_responses_are_split_and_ordered(name: str):
    """A micro-batch for each response, the last one first."""
    loss, rows = LOSSES[name](), rows_with_everything()
    whole = through_heads(loss, rows).sums(loss)
    split = []
    for start in (8, 4, 0):
        alone = rows.replace(sequence=(rows.sequence - start // 4).clamp(min=0))
        split.append(through_heads(loss, alone, start, start + 4).sums(loss))
    for part, value in whole.items():
        torch.testing.assert_close(sum(sums[part] for sums in split), value)


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_do_not_depend_on_which_responses_share_a_micro_batch(name: str):
    """All three responses, against the last two and the first: no loss needs more than one whole response."""
    loss, rows = LOSSES[name](), rows_with_everything()
    found = []
    for bounds in ([(0, 12)], [(4, 12), (0, 4)]):
        head = FusedHead(torch.nn.Parameter(torch.eye(VOCABULARY, dtype=torch.float64)))
        hidden = random_logits().clone().requires_grad_()
        for start, stop in bounds:
            alone = rows.replace(sequence=(rows.sequence - start // 4).clamp(min=0)).slice(start, stop)
            token_loss_pass(
                head, hidden[start:stop], alone, loss, teacher_head=HeadWeights(teacher_head())
            ).loss.backward()
        found.append((head.weight.grad, hidden.grad))
    torch.testing.assert_close(found[1], found[0])


@pytest.mark.parametrize("unanswered", [0, 2])
@pytest.mark.parametrize("name", LOSSES)
def test_a_micro_batch_without_episodes_or_without_answers_has_finite_figures(name: str, unanswered: int):
    """Few episodes leave a rank of a step without any; those that a teacher cannot score may share a micro-batch."""
    loss, rng = LOSSES[name](), np.random.default_rng(0)
    episodes = [
        TrainEpisode((0, i), replace(random_episode(rng=rng, length=4), old_logprobs=-np.ones(4, np.float32)), {}, 1.0)
        for i in range(unanswered)
    ]
    batch = build_batch(episodes, loss, None, torch.device("cpu"))
    head = FusedHead(torch.nn.Parameter(torch.randn(30, VOCABULARY)))
    hidden = torch.randn(len(batch.rows), VOCABULARY, requires_grad=True)
    output = token_loss_pass(head, hidden, batch.rows, loss, teacher_head=HeadWeights(torch.randn(30, TEACHER_WIDTH)))
    totals = [total for total, _ in loss.metrics(output.logprobs, output.entropy, output.rows).values()]
    assert np.isfinite([float(total) for total in (output.loss.detach(), *totals)]).all()
    # (N, 1) beside (N,) would make (N, N), 144 MB at 6,000 rows
    parts = loss.parts(output.logprobs, output.entropy, output.rows)
    assert {values.shape for values in parts.values()} <= {output.rows.mask.shape}


def test_a_loss_without_parts_reports_its_total():
    class Whole(TokenLoss):
        def __call__(self, logprobs, entropy, rows):
            return -rows.mask * logprobs[:, 0]

    loss = Whole()
    assert list(through_heads(loss, rows_with_everything()).sums(loss)) == ["total"]


def test_a_loss_that_defines_neither_is_refused():
    with pytest.raises(NotImplementedError, match="TokenLoss must define parts"):
        through_heads(TokenLoss(), rows_with_everything())
