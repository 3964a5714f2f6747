"""From episodes to the tensors of a micro-batch, by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
import torch

from tests.episodes import make_episode
from tgpo_ray.episode import ORIGIN_ENVIRONMENT, ORIGIN_POLICY, ORIGIN_TEACHER, Episode, Guidance
from tgpo_ray.kernels import TokenLoss
from tgpo_ray.learners.batch import TrainBatch, TrainEpisode, build_batch

CPU = torch.device("cpu")


class GuidedLoss(TokenLoss):
    targets: ClassVar[tuple[str, ...]] = ("teacher.teacher_ids",)
    fields: ClassVar[tuple[str, ...]] = ("teacher.teacher_logprobs",)


class TopKLoss(TokenLoss):
    targets: ClassVar[tuple[str, ...]] = ("teacher.topk_ids",)
    fields: ClassVar[tuple[str, ...]] = ("teacher.topk_logprobs",)


class TraceLoss(TokenLoss):
    trained_origins: ClassVar[tuple[int, ...]] = (ORIGIN_POLICY, ORIGIN_TEACHER)


def ids(*values: int) -> np.ndarray:
    return np.asarray(values, np.int32)


def episode(prompt: Sequence[int], response: Sequence[int], origin: Sequence[int] | None = None) -> Episode:
    return make_episode(prompt=prompt, response=response, origin=origin)


def two_episodes(loss: TokenLoss, second: Guidance | None = None) -> TrainBatch:
    """(10 11 | 1 2 3) with a teacher, its second token from the environment; (12 13 14 | 4 5) with `second`."""
    first = Guidance(
        teacher_ids=ids(1, 7, -1),
        teacher_logprobs=np.asarray([-0.5, -0.25, -2.0], np.float32),
        topk_ids=np.asarray([[1, 9], [7, -1], [8, 6]], np.int32),
        topk_logprobs=np.asarray([[-0.1, -3.0], [-0.2, -4.0], [-0.3, -5.0]], np.float32),
    )
    mixed = [ORIGIN_POLICY, ORIGIN_ENVIRONMENT, ORIGIN_POLICY]
    episodes = [
        TrainEpisode((4, 0), episode([10, 11], [1, 2, 3], mixed), {"teacher": first}, 0.5),
        TrainEpisode((4, 2), episode([12, 13, 14], [4, 5]), {} if second is None else {"teacher": second}, -1.5),
    ]
    old = {(4, 0): np.asarray([-1.0, 0.0, -3.0], np.float32), (4, 2): np.asarray([-4.0, -5.0], np.float32)}
    return build_batch(episodes, loss, old, CPU)


def test_rows_carry_what_belongs_to_their_token():
    rows = two_episodes(
        GuidedLoss(), Guidance(teacher_ids=ids(4, 6), teacher_logprobs=np.asarray([-1.0, -2.0], np.float32))
    ).rows
    assert rows.targets.tolist() == [[1, 1], [2, 7], [3, 0], [4, 4], [5, 6]]
    # the environment's token trains nobody; the teacher's -1 in row 2 is no target
    assert rows.target_mask.tolist() == [[1, 1], [0, 0], [1, 0], [1, 1], [1, 1]]
    assert rows.mask.tolist() == [1, 0, 1, 1, 1]
    assert rows.advantages.tolist() == [0.5, 0.5, 0.5, -1.5, -1.5]
    assert rows.old_logprobs is not None
    assert rows.old_logprobs.tolist() == [-1.0, 0.0, -3.0, -4.0, -5.0]
    assert rows.sequence.tolist() == [0, 0, 0, 1, 1]
    assert rows.lengths.tolist() == [2, 2, 2, 2, 2]  # tokens of the policy's own: two of the first one's three
    assert rows.extra["teacher.teacher_logprobs"].tolist() == [-0.5, -0.25, -2.0, -1.0, -2.0]


def test_an_episode_without_guidance_is_masked_and_the_others_are_not():
    rows = two_episodes(GuidedLoss()).rows
    assert rows.target_mask.tolist() == [[1, 1], [0, 0], [1, 0], [1, 0], [1, 0]]
    assert rows.targets[3:].tolist() == [[4, 0], [5, 0]]
    teacher_logprobs = rows.extra["teacher.teacher_logprobs"].tolist()
    assert teacher_logprobs[:3] == [-0.5, -0.25, -2.0] and np.isnan(teacher_logprobs[3:]).all()  # nothing was said


def test_an_episode_without_guidance_gets_as_many_columns_as_the_others():
    rows = two_episodes(TopKLoss()).rows
    assert rows.targets.tolist() == [[1, 1, 9], [2, 7, 0], [3, 8, 6], [4, 0, 0], [5, 0, 0]]
    assert rows.target_mask.tolist() == [[1, 1, 1], [0, 0, 0], [1, 1, 1], [1, 0, 0], [1, 0, 0]]
    assert rows.extra["teacher.topk_logprobs"].shape == (5, 2)


def test_traces_are_trained_on_where_the_loss_says_so():
    trace = episode([10], [1, 2], [ORIGIN_TEACHER, ORIGIN_TEACHER])
    traces = [TrainEpisode((0, 0), trace, {}, 0.0)]
    assert build_batch(traces, TokenLoss(), None, CPU).rows.mask.tolist() == [0, 0]
    assert build_batch(traces, TraceLoss(), None, CPU).rows.mask.tolist() == [1, 1]


def test_without_old_logprobs_the_ratio_is_one():
    one = TrainEpisode((0, 0), episode([1], [2]), {}, 0.0)
    assert build_batch([one], TokenLoss(), None, CPU).rows.old_logprobs is None


@pytest.mark.parametrize("loss", [TokenLoss(), GuidedLoss()])
def test_nothing_to_do_is_no_row(loss: TokenLoss):
    batch = build_batch([], loss, None, CPU)
    assert batch.rows.targets.shape == (0, 1 + len(loss.targets))  # a loss may index its columns
    assert batch.rows.target_mask.shape == (0, 1 + len(loss.targets))
    assert batch.keys == batch.counts == ()


@pytest.mark.parametrize("length", [1, 3])
def test_a_misaligned_answer_is_refused(length: int):
    wrong = Guidance(teacher_ids=np.zeros(length, np.int32), teacher_logprobs=np.zeros(length, np.float32))
    with pytest.raises(ValueError, match=f"scorer 'teacher' returned {length} positions for a response of 2 tokens"):
        two_episodes(GuidedLoss(), wrong)
