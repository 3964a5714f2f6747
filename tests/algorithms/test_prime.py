"""PRIME: the process-reward model's loss and lesson, and the advantages that the driver's task makes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.algorithms.oracles import assert_same, random_logits, random_rows, through_autograd, through_kernel
from tests.episodes import make_episode
from tgpo_ray.algorithms.prime import advantages
from tgpo_ray.algorithms.process_advantages import prime_advantages
from tgpo_ray.algorithms.process_reward import ProcessRewardLoss
from tgpo_ray.algorithms.token_advantages import TokenAdvantageLoss
from tgpo_ray.algorithms.token_losses import REFERENCE, PolicyLoss
from tgpo_ray.driver.token_values import GroupTokens
from tgpo_ray.episode import Episode, Guidance
from tgpo_ray.kernels import TokenRows


def judged_rows(*, seed: int = 0) -> TokenRows:
    """Three responses of four tokens; the first and the last are right."""
    rows = random_rows(num_targets=1, seed=seed)
    reference = torch.log_softmax(random_logits(seed=seed + 3), -1).gather(1, rows.targets)[:, 0]
    correct = (rows.sequence != 1).double()
    return rows.with_extra(**{REFERENCE: reference, "episode.correct": correct})


def cross_entropy(rows: TokenRows, beta: float, logits: Tensor) -> tuple[float, Tensor]:
    def formula(log_p: Tensor) -> Tensor:
        ratio = rows.mask * (log_p.gather(1, rows.targets)[:, 0] - rows.extra[REFERENCE])
        logit = beta * torch.zeros(3, dtype=torch.float64).index_add(0, rows.sequence, ratio)
        correct = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
        return torch.nn.functional.binary_cross_entropy_with_logits(logit, correct, reduction="none")

    return through_autograd(formula, logits)


@pytest.mark.parametrize("beta", [0.05, 1.0])
def test_value_and_gradient_are_those_of_the_cross_entropy_of_each_response(beta: float):
    rows, logits = judged_rows(), random_logits()
    assert_same(through_kernel(ProcessRewardLoss(beta), rows, logits), cross_entropy(rows, beta, logits))


def test_a_response_that_the_reference_did_not_answer_is_left_out():
    rows, logits = judged_rows(), random_logits()
    gap = rows.extra[REFERENCE].clone()
    place = int((rows.mask * (rows.sequence == 0)).nonzero()[0])
    gap[place] = torch.nan
    _, gradient = through_kernel(ProcessRewardLoss(), rows.with_extra(**{REFERENCE: gap}), logits)
    assert gradient[:4].abs().max() == 0.0 and gradient[4:].abs().max() > 0.0


def test_learning_lowers_the_loss_and_tells_right_from_wrong():
    """A toy that can be told apart: token 1 stands in right responses only."""
    rows = judged_rows()
    ids = torch.where(rows.extra["episode.correct"] > 0.5, 1, 2)[:, None]
    ones = torch.ones_like(rows.target_mask)
    rows = rows.replace(targets=ids, target_mask=ones, lengths=4.0 * ones[:, 0])
    rows = rows.with_extra(**{REFERENCE: torch.full((12,), -2.0, dtype=torch.float64)})
    loss, logits = ProcessRewardLoss(1.0), torch.zeros(12, 7, dtype=torch.float64)
    values = []
    for _ in range(50):
        value, gradient = through_kernel(loss, rows, logits)
        values.append(value)
        logits = logits - gradient.mean(0, keepdim=True)  # one set of logits for all positions
    assert values[-1] < 0.3 * values[0]
    log_p = torch.log_softmax(logits, -1).gather(1, rows.targets)
    total, count = loss.metrics(log_p, None, loss.prepare(log_p, rows))["process_reward/accuracy"]
    assert total == count == 3.0


def episode(length: int, reward: float, origin: list[int] | None = None) -> Episode:
    return make_episode(prompt=[0, 0], response=range(length), origin=origin, reward=reward)


def test_advantages_stand_on_the_policys_tokens_alone():
    episodes = [episode(3, 1.0, [1, 0, 1]), episode(2, 0.0)]
    judged = [np.array([1.0, 9.0, 2.0], np.float32), np.array([0.5, 0.5], np.float32)]
    reference = [Guidance(teacher_logprobs=np.zeros(3, np.float32)), Guidance(teacher_logprobs=np.zeros(2, np.float32))]
    group = GroupTokens(episodes, [{"reference": said} for said in reference], [*judged])
    ((first, second),) = advantages([group])
    ((expected, other),) = prime_advantages([[judged[0][[0, 2]], judged[1]]], [np.array([1.0, 0.0])])
    np.testing.assert_allclose(first, [expected[0], 0.0, expected[1]], rtol=1e-6)
    np.testing.assert_allclose(second, other, rtol=1e-6)


def test_a_group_without_the_reference_keeps_its_outcomes():
    episodes = [episode(2, 1.0), episode(2, 0.0)]
    group = GroupTokens(episodes, [{}, {}], [np.ones(2, np.float32)] * 2)
    ((good, bad),) = advantages([group])
    assert (good > 0).all() and (bad < 0).all()


def test_token_advantages_take_the_place_of_the_episodes():
    rows, logits = random_rows(num_targets=1), random_logits()
    own = torch.randn(12, generator=torch.Generator().manual_seed(5)).double()
    expected = through_kernel(PolicyLoss(), rows.replace(advantages=own), logits)
    assert_same(through_kernel(TokenAdvantageLoss(), rows.with_extra(**{"advantage.values": own}), logits), expected)
