"""From lengths to micro-batches, and from episodes to the tensors of one."""

from __future__ import annotations

import math
import pickle
import timeit
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.episodes import make_episode
from tgpo_ray.episode import ORIGIN_ENVIRONMENT, ORIGIN_POLICY, ORIGIN_TEACHER, Episode, Guidance
from tgpo_ray.kernels import TokenLoss
from tgpo_ray.learners.batch import (
    STEP_COST,
    MicroBatch,
    Piece,
    TrainBatch,
    TrainEpisode,
    build_batch,
    plan_micro_batches,
)

CPU = torch.device("cpu")


def pieces_of(lengths: Sequence[Sequence[int]]) -> list[Piece]:
    return [Piece(key, None, {}, np.zeros(len(group)), tuple(range(len(group)))) for key, group in enumerate(lengths)]


def plan(lengths: Sequence[Sequence[int]], *, num_ranks: int = 1, token_budget: int) -> list[list[MicroBatch]]:
    return plan_micro_batches(pieces_of(lengths), dict(enumerate(lengths)), num_ranks, token_budget)


def padded_tokens(micro_batch: MicroBatch, lengths: Sequence[Sequence[int]]) -> int:
    sequences = [lengths[piece.ordinal][i] for piece in micro_batch for i in piece.members]
    return len(sequences) * max(sequences, default=0)


def keys(micro_batch: MicroBatch) -> list[tuple[int, int]]:
    return [(piece.ordinal, i) for piece in micro_batch for i in piece.members]


def largest_of_steps(ranks: Sequence[Sequence[MicroBatch]], lengths: Sequence[Sequence[int]]) -> list[int]:
    """Padded tokens of each step's largest micro-batch: what the step costs every rank."""
    return [max(padded_tokens(micro_batch, lengths) for micro_batch in step) for step in zip(*ranks, strict=True)]


def lognormal_lengths(median: int, cap: int, seed: int = 0) -> list[list[int]]:
    """128 groups of 8: prompts of 200 tokens, responses of 1.38 medians in the mean before the cap."""
    responses = np.minimum(np.random.default_rng(seed).lognormal(np.log(median), 0.8, (128, 8)), cap)
    return (200 + responses.astype(int)).tolist()


LONG, SHORT = lognormal_lengths(1480, 8192), lognormal_lengths(330, 2048)
groups = st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=6), min_size=1, max_size=12)


@settings(deadline=None)
@given(lengths=groups, num_ranks=st.integers(1, 9), token_budget=st.integers(40, 300))
def test_any_plan_trains_each_episode_once_within_the_budget_in_equal_steps(lengths, num_ranks, token_budget):
    ranks = plan(lengths, num_ranks=num_ranks, token_budget=token_budget)
    members = Counter(key for rank in ranks for step in rank for key in keys(step))
    assert members == {(key, i): 1 for key, group in enumerate(lengths) for i in range(len(group))}
    assert all(padded_tokens(step, lengths) <= token_budget for rank in ranks for step in rank)
    assert len(ranks) == num_ranks
    assert len({len(rank) for rank in ranks}) == 1
    assert all(any(rank[step] for rank in ranks) for step in range(len(ranks[0])))


@settings(deadline=None)
@given(count=st.integers(1, 100), length=st.integers(1, 40), num_ranks=st.integers(1, 9), budget=st.integers(40, 300))
def test_sequences_of_one_length_take_as_few_steps_as_they_can(count, length, num_ranks, budget):
    ranks = plan([[length]] * count, num_ranks=num_ranks, token_budget=budget)
    assert len(ranks[0]) == math.ceil(count / num_ranks / (budget // length))


@settings(deadline=None)
@given(lengths=groups, num_ranks=st.integers(1, 4), shuffle=st.randoms(use_true_random=False))
def test_the_plan_follows_from_the_lengths_and_not_from_the_order_of_arrival(lengths, num_ranks, shuffle):
    by_ordinal = dict(enumerate(lengths))
    arrived = [replace(piece, advantages=np.ones(len(piece.members))) for piece in pieces_of(lengths)]
    shuffle.shuffle(arrived)
    found = plan_micro_batches(arrived, by_ordinal, num_ranks, 100)
    expected = plan(lengths, num_ranks=num_ranks, token_budget=100)
    assert [[keys(step) for step in rank] for rank in found] == [[keys(step) for step in rank] for rank in expected]


@settings(deadline=None, max_examples=50)
@given(lengths=st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=3), min_size=1, max_size=4))
def test_no_other_cut_of_the_sorted_sequences_costs_less(lengths):
    token_budget, num_ranks = 64, 2  # as many tokens as fill levels: each size of a micro-batch is tried
    descending = [*sorted((length for group in lengths for length in group), reverse=True), 0]

    def least(start: int) -> float:
        """Cost of the sequences from `start` on, by trying all cuts."""
        costs = [] if descending[start] else [0.0]
        for middle in range(start + 1, len(descending)):
            for stop in range(middle, len(descending)):
                larger = max((middle - start) * descending[start], (stop - middle) * descending[middle])
                if larger <= token_budget:
                    costs.append(larger + STEP_COST * token_budget + least(stop))
        return min(costs)

    largest = largest_of_steps(plan(lengths, num_ranks=num_ranks, token_budget=token_budget), lengths)
    assert sum(largest) + len(largest) * STEP_COST * token_budget == pytest.approx(least(0))


@pytest.mark.parametrize("lengths", [LONG, SHORT], ids=["long", "short"])
@pytest.mark.parametrize(("num_ranks", "least"), [(1, 0.95), (8, 0.93)])
def test_nearly_all_that_ranks_in_lockstep_compute_is_useful(lengths, num_ranks, least):
    ranks = plan(lengths, num_ranks=num_ranks, token_budget=32_768)
    useful = sum(map(sum, lengths)) / num_ranks
    assert useful / sum(largest_of_steps(ranks, lengths)) >= least
    assert len(ranks[0]) <= 1.4 * math.ceil(useful / 32_768)  # in few, large steps: one by one, nothing is padded


def test_a_thousand_episodes_are_planned_at_once():
    seconds = timeit.repeat(lambda: plan(LONG, num_ranks=8, token_budget=32_768), number=1, repeat=5)
    assert min(seconds) < 0.05


def test_what_a_rank_is_sent_is_small_and_shares_what_the_driver_holds():
    whole = [replace(piece, ref=f"reference {piece.ordinal}".encode()) for piece in pieces_of(LONG)]
    ranks = plan_micro_batches(whole, dict(enumerate(LONG)), 8, 32_768)
    for piece in (piece for rank in ranks for step in rank for piece in step):
        of_driver = whole[piece.ordinal]
        assert piece.ref is of_driver.ref and piece.advantages is of_driver.advantages
        assert piece.guidance is of_driver.guidance
    # 128 episodes of at most 128 groups: pickle writes an array or a reference that several pieces share once
    assert max(len(pickle.dumps(rank, protocol=5)) for rank in ranks) < 40_000


def test_groups_of_one_length_are_dealt_evenly():
    ranks = plan([[10, 10]] * 8, num_ranks=2, token_budget=40)
    assert [[len(step) for step in rank] for rank in ranks] == [[2, 2], [2, 2]]


def test_ranks_get_the_longest_of_a_step_in_turns():
    ranks = plan([[40, 30], [20, 10]], num_ranks=2, token_budget=40)
    # the first step is (40), (30); in the second the shorter one is the first rank's
    assert [[keys(step) for step in rank] for rank in ranks] == [[[(0, 0)], [(1, 1)]], [[(0, 1)], [(1, 0)]]]


def test_neighbours_in_length_share_a_micro_batch_whichever_groups_they_are_of():
    (rank,) = plan([[10, 30, 20], [20, 10, 10]], token_budget=45)
    assert [keys(step) for step in rank] == [[(0, 1)], [(0, 2), (1, 0)], [(0, 0), (1, 1), (1, 2)]]


def test_a_sequence_above_the_budget_goes_alone():
    (rank,) = plan([[10, 100, 10]], token_budget=45)
    assert [keys(step) for step in rank] == [[(0, 1)], [(0, 0), (0, 2)]]


def test_episodes_that_were_left_out_take_no_room():
    whole = Piece(0, None, {}, np.zeros(3), (0, 2))
    ((micro_batch,),) = plan_micro_batches([whole], {0: [6, 9, 6]}, 1, 2 * 6)
    assert keys(micro_batch) == [(0, 0), (0, 2)]


def test_a_rank_without_work_gets_empty_micro_batches():
    ranks = plan([[10], [10]], num_ranks=3, token_budget=10)
    assert sorted(len(step) for rank in ranks for step in rank) == [0, 1, 1]


def test_nothing_to_train_on_is_no_step():
    assert plan([], num_ranks=2, token_budget=10) == [[], []]


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
