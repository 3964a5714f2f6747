"""From lengths to micro-batches: which rank trains on which episodes."""

from __future__ import annotations

import math
import pickle
import timeit
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgpo_ray.learners.layouts import LAYOUTS
from tgpo_ray.learners.planning import STEP_COST, MicroBatch, Piece, plan_micro_batches
from tgpo_ray.learners.tokens import Layout, TokenIds


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


# ---- other layouts


def planned(
    lengths: Sequence[Sequence[int]], prompts: Sequence[int], num_ranks: int, token_budget: int, layout: Layout
) -> list[list[MicroBatch]]:
    return plan_micro_batches(
        pieces_of(lengths), dict(enumerate(lengths)), num_ranks, token_budget,
        layout=layout, prompts=dict(enumerate(prompts)),
    )  # fmt: skip


def computed_tokens(
    micro_batch: MicroBatch, lengths: Sequence[Sequence[int]], prompts: Sequence[int], layout: Layout
) -> int:
    """Tokens that the trunk reads of a micro-batch: those of its tensors, built from ids that stand for the group."""
    ids = [
        TokenIds(np.full(prompts[piece.ordinal], piece.ordinal), np.zeros(lengths[piece.ordinal][i], np.int64))
        for piece in micro_batch
        for i in piece.members
    ]
    ids = [TokenIds(prompt, response[len(prompt) :]) for prompt, response in ids]
    tokens: Any = LAYOUTS[layout].of(ids)
    if layout == "shared_prompt":
        return tokens.prompts.ids.numel() + tokens.responses.ids.numel()
    return tokens.input_ids.numel() if ids else 0


@settings(deadline=None, max_examples=50)
@given(
    responses=groups, prompt=st.integers(2, 30), layout=st.sampled_from(["packed", "shared_prompt"]),
    num_ranks=st.integers(1, 4), token_budget=st.integers(80, 300),
)  # fmt: skip
def test_any_plan_of_any_layout_keeps_the_budget(responses, prompt, layout, num_ranks, token_budget):
    prompts = [prompt + key % 3 for key in range(len(responses))]
    lengths = [[prompts[key] + length for length in group] for key, group in enumerate(responses)]
    ranks = planned(lengths, prompts, num_ranks, token_budget, layout)
    members = Counter(key for rank in ranks for step in rank for key in keys(step))
    assert members == {(key, i): 1 for key, group in enumerate(lengths) for i in range(len(group))}
    assert len({len(rank) for rank in ranks}) == 1
    for step in (step for rank in ranks for step in rank if step):
        assert computed_tokens(step, lengths, prompts, layout) <= token_budget


@pytest.mark.parametrize("lengths", [LONG, SHORT], ids=["long", "short"])
def test_packed_sequences_need_no_room_for_padding(lengths):
    ranks = planned(lengths, [200] * 128, 1, 32_768, "packed")
    assert len(ranks[0]) <= math.ceil(sum(map(sum, lengths)) / 32_768) + 5


def test_mates_stay_together_where_the_prompt_is_shared():
    ranks = planned(SHORT, [200] * 128, 8, 32_768, "shared_prompt")
    pieces = [piece for rank in ranks for step in rank for piece in step]
    assert len(pieces) <= 128 + sum(len(rank) for rank in ranks)  # a cut splits at most one group
    of_padded = [piece for rank in plan(SHORT, num_ranks=8, token_budget=32_768) for step in rank for piece in step]
    assert len(pieces) < len(of_padded) / 3


def test_shared_prompts_of_a_ragged_batch_cost_less_than_half_of_padding():
    rng = np.random.default_rng(0)
    prompts = np.minimum(rng.lognormal(np.log(220), 0.5, 128), 1024).astype(int).tolist()
    responses = np.minimum(rng.lognormal(np.log(64), 0.8, (128, 8)), 256).astype(int) + 1
    lengths = (np.asarray(prompts)[:, None] + responses).tolist()
    costs = {
        layout: sum(
            max(computed_tokens(micro_batch, lengths, prompts, layout) for micro_batch in step)
            for step in zip(*planned(lengths, prompts, 4, 16_384, layout), strict=True)
        )
        for layout in ("padded", "shared_prompt")
    }
    assert costs["padded"] >= 2.5 * costs["shared_prompt"]


def test_shared_prompts_are_planned_with_their_lengths():
    with pytest.raises(ValueError, match="layout shared_prompt plans with the lengths of the prompts"):
        plan_micro_batches(pieces_of([[3]]), {0: [3]}, 1, 10, layout="shared_prompt")


def test_nothing_to_train_on_is_no_step():
    assert plan([], num_ranks=2, token_budget=10) == [[], []]
    assert planned([], [], 2, 10, "packed") == planned([], [], 2, 10, "shared_prompt") == [[], []]
