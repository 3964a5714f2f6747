"""From lengths to micro-batches, and from episodes to the tensors of one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.episodes import make_episode
from tgpo_ray.episode import ORIGIN_ENVIRONMENT, ORIGIN_POLICY, ORIGIN_TEACHER, Episode, Guidance
from tgpo_ray.kernels import TokenLoss
from tgpo_ray.learners.batch import MicroBatch, Piece, TrainBatch, TrainEpisode, build_batch, plan_micro_batches

CPU = torch.device("cpu")


def plan(lengths: Sequence[Sequence[int]], *, num_ranks: int = 1, token_budget: int) -> list[list[MicroBatch]]:
    pieces = [Piece(key, None, {}, np.zeros(len(group)), tuple(range(len(group)))) for key, group in enumerate(lengths)]
    return plan_micro_batches(pieces, dict(enumerate(lengths)), num_ranks, token_budget)


def padded_tokens(micro_batch: MicroBatch, lengths: Sequence[Sequence[int]]) -> int:
    sequences = [lengths[piece.ordinal][i] for piece in micro_batch for i in piece.members]
    return len(sequences) * max(sequences, default=0)


groups = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=12)


@settings(deadline=None)
@given(lengths=groups, num_ranks=st.integers(1, 4), token_budget=st.integers(40, 300))
def test_any_plan_trains_each_episode_once_within_the_budget_in_equal_steps(lengths, num_ranks, token_budget):
    ranks = plan(lengths, num_ranks=num_ranks, token_budget=token_budget)
    members = Counter((p.ordinal, i) for rank in ranks for step in rank for p in step for i in p.members)
    assert members == {(key, i): 1 for key, group in enumerate(lengths) for i in range(len(group))}
    assert all(padded_tokens(step, lengths) <= token_budget for rank in ranks for step in rank)
    assert len(ranks) == num_ranks
    assert len({len(rank) for rank in ranks}) == 1


@settings(deadline=None)
@given(lengths=groups, num_ranks=st.integers(1, 4), token_budget=st.integers(40, 300))
def test_a_group_that_fits_stays_whole(lengths, num_ranks, token_budget):
    pieces = Counter(
        piece.ordinal
        for rank in plan(lengths, num_ranks=num_ranks, token_budget=token_budget)
        for step in rank
        for piece in step
    )
    for key, group in enumerate(lengths):
        if len(group) * max(group) <= token_budget:
            assert pieces[key] == 1


@settings(deadline=None)
@given(lengths=groups, num_ranks=st.integers(2, 4))
def test_no_rank_has_more_than_its_share_and_one_group(lengths, num_ranks):
    # the least loaded rank takes each group, so the fullest one is over the mean by less than one group
    loads = [
        sum(lengths[piece.ordinal][i] for step in rank for piece in step for i in piece.members)
        for rank in plan(lengths, num_ranks=num_ranks, token_budget=10_000)
    ]
    assert max(loads) <= sum(loads) / num_ranks + max(map(sum, lengths))


def test_groups_of_one_length_are_dealt_evenly():
    ranks = plan([[10, 10]] * 8, num_ranks=2, token_budget=40)
    assert [[len(step) for step in rank] for rank in ranks] == [[2, 2], [2, 2]]


def test_a_group_above_the_budget_is_split_by_length():
    # sorted: 30, 20, 10, 10; 30 alone (2 x 30 > 45), then 2 x 20 = 40 fits, 3 x 20 does not, then the last 10
    (rank,) = plan([[10, 30, 20, 10]], token_budget=45)
    assert sorted(piece.members for step in rank for piece in step) == [(0, 2), (1,), (3,)]


def test_a_rank_without_work_gets_empty_micro_batches():
    ranks = plan([[10], [10]], num_ranks=3, token_budget=10)
    assert sorted(len(step) for rank in ranks for step in rank) == [0, 1, 1]


# ---- one micro-batch, by hand


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


def test_the_trunk_reads_right_padded_sequences():
    batch = two_episodes(GuidedLoss())
    assert batch.input_ids.tolist() == [[10, 11, 1, 2, 3], [12, 13, 14, 4, 5]]
    assert batch.attention_mask.tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 1, 1]]
    pair = [TrainEpisode((0, i), episode([10], response), {}, 0.0) for i, response in enumerate(([1], [1, 2, 3]))]
    short = build_batch(pair, TokenLoss(), None, CPU)
    assert short.input_ids.tolist() == [[10, 1, 0, 0], [10, 1, 2, 3]]
    assert short.attention_mask.tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]


def test_a_row_points_at_the_position_before_its_token():
    batch = two_episodes(GuidedLoss())
    # sequence 0: tokens at 2, 3, 4 are predicted at 1, 2, 3; sequence 1 starts at 5: its tokens at 3, 4 by 2, 3
    assert batch.row_index.tolist() == [1, 2, 3, 7, 8]
    following = batch.input_ids.flatten()[batch.row_index + 1]
    assert following.tolist() == batch.rows.targets[:, 0].tolist()
    assert batch.keys == ((4, 0), (4, 2))


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
def test_nothing_to_do_is_one_dummy_token_and_no_row(loss: TokenLoss):
    batch = build_batch([], loss, None, CPU)
    assert batch.input_ids.tolist() == [[0]]
    assert batch.attention_mask.tolist() == [[1]]
    assert batch.row_index.shape == (0,)
    assert batch.row_index.dtype == torch.int64
    assert batch.rows.targets.shape == (0, 1 + len(loss.targets))  # a loss may index its columns
    assert batch.rows.target_mask.shape == (0, 1 + len(loss.targets))
    assert batch.keys == ()


@pytest.mark.parametrize("length", [1, 3])
def test_a_misaligned_answer_is_refused(length: int):
    wrong = Guidance(teacher_ids=np.zeros(length, np.int32), teacher_logprobs=np.zeros(length, np.float32))
    with pytest.raises(ValueError, match=f"scorer 'teacher' returned {length} positions for a response of 2 tokens"):
        two_episodes(GuidedLoss(), wrong)
