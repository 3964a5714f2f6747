"""Sampler's and learner's log-probs side by side, on a real learner alone in this process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.core.learners.learner_cases import episode, piece, spec_of
from tgpo_ray.algorithms.token_losses import REFERENCE, PolicyLoss
from tgpo_ray.episode import Episode, Guidance
from tgpo_ray.kernels import TokenLoss
from tgpo_ray.learners.batch import TrainEpisode, build_batch
from tgpo_ray.learners.learner import Learner
from tgpo_ray.learners.planning import Piece

ADVANTAGES = [1.0, -0.5, 2.0]


@pytest.fixture(scope="module")
def learner(tiny_models) -> Learner:
    return Learner(spec_of(tiny_models["policy"]))


@pytest.fixture(scope="module")
def sampled(learner: Learner) -> list[Episode]:
    """Three episodes whose sampler was a little off: its log-probs are the learner's and a tenth of a nat of noise."""
    rng = np.random.default_rng(0)
    episodes = [episode(seed, length) for seed, length in ((0, 9), (1, 3), (2, 6))]
    logprobs = learner.logprobs([piece(0, episodes, ADVANTAGES)])
    noise = [rng.normal(0.1, 0.1, len(one.response_ids)).astype(np.float32) for one in episodes]
    return [replace(one, old_logprobs=logprobs[0, i] - noise[i]) for i, one in enumerate(episodes)]


def gradient(learner: Learner, loss: TokenLoss, pieces: Sequence[Piece]) -> Tensor:
    """(parameters,) of the summed loss, one micro-batch a piece."""
    learner._strategy.module.zero_grad()
    learner.accumulate([[one] for one in pieces], loss)
    return torch.cat([p.grad.flatten().clone() for p in learner._strategy.module.parameters() if p.grad is not None])


def ratios(learner: Learner, episodes: Sequence[Episode]) -> list[np.ndarray]:
    """log pi_learner - log pi_sampler of each episode's tokens."""
    found = learner.logprobs([piece(0, episodes, ADVANTAGES)])
    return [found[0, i] - one.old_logprobs for i, one in enumerate(episodes) if one.old_logprobs is not None]


def test_sequence_weights_scale_the_gradients_of_their_responses(learner, sampled):
    """The ratio against pi_old is 1, although the episodes carry the sampler's log-probs: they are the correction."""
    weights = [min(float(np.exp(gaps.sum())), 1.5) for gaps in ratios(learner, sampled)]
    assert max(weights) == 1.5 and min(weights) < 1.5  # one is cut
    loss = PolicyLoss(importance="sequence", importance_cap=1.5)
    plain = [replace(one, old_logprobs=None) for one in sampled]
    expected = gradient(
        learner, PolicyLoss(), [piece(0, plain, [a * w for a, w in zip(ADVANTAGES, weights, strict=True)])]
    )
    got = gradient(learner, loss, [piece(0, sampled, ADVANTAGES)])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("importance", ["truncated", "sequence"])
def test_the_split_into_micro_batches_does_not_change_the_correction(learner, sampled, importance):
    loss = PolicyLoss(importance=importance, importance_cap=1.5)
    whole = gradient(learner, loss, [piece(0, sampled, ADVANTAGES)])
    alone = [replace(piece(0, sampled, ADVANTAGES), members=(i,)) for i in range(3)]
    torch.testing.assert_close(gradient(learner, loss, alone), whole, rtol=1e-4, atol=1e-6)


def test_the_gap_of_sampler_and_learner_is_measured(learner, sampled):
    gaps = np.abs(np.concatenate(ratios(learner, sampled)))
    sums = learner.accumulate([[piece(0, sampled, ADVANTAGES)]], PolicyLoss(importance="truncated"))
    total, count = sums["policy/sampler_gap"]
    assert (total, count) == (pytest.approx(gaps.sum(), rel=1e-3), len(gaps))
    assert "policy/ratio_deviation" not in sums  # there is no pi_old


def test_a_remembered_pi_old_and_the_sampler_stand_side_by_side(learner, sampled):
    """In a second update the clip is against the learner's log-probs, the correction against the sampler's."""
    learner.remember_logprobs([[piece(0, sampled, ADVANTAGES)]])
    sums = learner.accumulate([[piece(0, sampled, ADVANTAGES)]], PolicyLoss(importance="truncated"))
    learner.forget_logprobs()
    assert sums["policy/ratio_deviation"][0] == pytest.approx(0.0, abs=1e-4)
    assert sums["policy/sampler_gap"][0] > 0.1


def test_without_a_correction_the_samplers_logprobs_are_pi_old(learner, sampled):
    sums = learner.accumulate([[piece(0, sampled, ADVANTAGES)]], PolicyLoss())
    deviation = np.abs(np.exp(np.concatenate(ratios(learner, sampled))) - 1).sum()
    assert sums["policy/ratio_deviation"][0] == pytest.approx(deviation, rel=1e-3)


def test_rows_of_a_reference_that_failed_are_marked():
    episodes = [episode(0, 3), episode(1, 2)]
    said = Guidance(teacher_logprobs=np.array([-1.0, -2.0, -3.0], np.float32))
    answered = TrainEpisode((0, 0), episodes[0], {"reference": said}, 1.0)
    failed = TrainEpisode((0, 1), episodes[1], {}, 1.0)
    rows = build_batch([answered, failed], PolicyLoss(kl_weight=0.1), None, torch.device("cpu")).rows
    assert rows.extra[REFERENCE].isfinite().tolist() == [True, True, True, False, False]
    values, known = PolicyLoss.reference(rows)
    assert values.tolist()[:3] == [-1.0, -2.0, -3.0] and known.tolist() == [1.0, 1.0, 1.0, 0.0, 0.0]
