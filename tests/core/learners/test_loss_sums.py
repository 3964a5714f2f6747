"""What a rank says of its loss: the same sums however a batch is split over micro-batches and ranks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.core.learners.learner_cases import ALL, spec_of, three_groups
from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss
from tgpo_ray.learners.learner import Learner


def test_splits_and_order_change_no_part_of_the_loss(tiny_models: dict[str, str]) -> None:
    pieces, learner = three_groups(), Learner(spec_of(tiny_models["policy"]))
    loss = GuidedPolicyLoss(guidance_weight=0.1, entropy_weight=ALL.entropy_weight)
    alone = [[replace(group, members=(i,))] for group in pieces for i in group.members]
    sums = []
    for micro_batches in ([pieces], alone, alone[::-1], [pieces[:1], [], pieces[1:]]):
        learner.accumulate(micro_batches, loss)
        sums.append(learner.take_loss_sums())
    ranks = []
    for share in (pieces[:2], pieces[2:]):
        learner.accumulate([share], loss)
        ranks.append(learner.take_loss_sums())
    sums.append({name: ranks[0][name] + ranks[1][name] for name in ranks[0]})
    assert sorted(sums[0]) == ["entropy", "guidance", "policy", "total"]
    for other in sums[1:]:
        assert other == pytest.approx(sums[0], rel=1e-5)
    total = sums[0].pop("total")
    assert sum(sums[0].values()) == pytest.approx(total, rel=1e-5)


def test_sums_are_those_since_they_were_taken(tiny_models: dict[str, str]) -> None:
    pieces, learner = three_groups(), Learner(spec_of(tiny_models["policy"]))
    learner.accumulate([pieces], ALL)
    learner.accumulate([pieces], ALL)
    twice = learner.take_loss_sums()
    learner.accumulate([pieces], ALL)
    once = learner.take_loss_sums()
    assert twice["total"] == pytest.approx(2 * once["total"], rel=1e-5)
    assert learner.take_loss_sums() == {}
