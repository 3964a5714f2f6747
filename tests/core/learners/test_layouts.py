"""The three layouts of a micro-batch, by hand and against each other: equal losses, metrics and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.algorithms.losses_by_name import LOSSES
from tests.core.learners.learner_cases import spec_of
from tests.episodes import make_episode
from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss
from tgpo_ray.episode import ORIGIN_ENVIRONMENT, ORIGIN_POLICY, EpisodeGroup, Guidance
from tgpo_ray.kernels import Divergence, TokenLoss
from tgpo_ray.learners.layouts import LAYOUTS, PackedTokens, PaddedTokens
from tgpo_ray.learners.learner import Learner
from tgpo_ray.learners.planning import MicroBatch, Piece, plan_micro_batches
from tgpo_ray.learners.shared_prompts import SharedPromptTokens
from tgpo_ray.learners.side_by_side import placed
from tgpo_ray.learners.tokens import Layout, TokenIds

OTHERS: tuple[Layout, ...] = ("packed", "shared_prompt")
VOCABULARY, TEACHER_WIDTH, TOP_K = 20, 48, 2
SHAPES = ((5, (4, 9, 1)), (2, (6, 3)), (1, (5, 5, 2)), (8, (7,)))  # prompt tokens, response tokens of each mate


def token_ids(prompt: Sequence[int], response: Sequence[int]) -> TokenIds:
    return TokenIds(np.asarray(prompt, np.int32), np.asarray(response, np.int32))


PAIR = [token_ids([10, 11], [1, 2, 3]), token_ids([10, 11], [4])]
THREE = [*PAIR, token_ids([12, 13, 14], [5, 6])]


# ---- by hand


def test_padded_sequences_lie_on_the_left_and_a_row_points_before_its_token():
    tokens = PaddedTokens.of(THREE)
    assert tokens.input_ids.tolist() == [[10, 11, 1, 2, 3], [10, 11, 4, 0, 0], [12, 13, 14, 5, 6]]
    assert tokens.row_index.tolist() == [1, 2, 3, 6, 12, 13]
    assert tokens.input_ids.flatten()[tokens.row_index + 1].tolist() == [1, 2, 3, 4, 5, 6]


def test_packed_sequences_lie_end_to_end_and_count_their_own_positions():
    tokens = PackedTokens.of(THREE)
    assert tokens.input_ids.tolist() == [[10, 11, 1, 2, 3, 10, 11, 4, 12, 13, 14, 5, 6]]
    assert tokens.position_ids.tolist() == [[0, 1, 2, 3, 4, 0, 1, 2, 0, 1, 2, 3, 4]]
    assert (tokens.bounds.tolist(), tokens.bounds.dtype, tokens.longest) == ([0, 5, 8, 13], torch.int32, 5)
    assert tokens.input_ids[0][tokens.row_index + 1].tolist() == [1, 2, 3, 4, 5, 6]


def test_a_shared_prompt_lies_once_and_its_last_token_with_each_response():
    tokens = SharedPromptTokens.of(THREE)
    assert tokens.prompts.ids.tolist() == [[12, 13, 10]]  # behind 12 13 there is room: no row is left empty for 10
    assert tokens.prompts.owner.tolist() == [[1, 1, 0]]
    assert tokens.prompts.position_ids.tolist() == [[0, 1, 0]]
    assert tokens.responses.ids.tolist() == [[11, 1, 2], [14, 5, 11]]
    assert tokens.responses.owner.tolist() == [[0, 0, 0], [2, 2, 1]]
    assert tokens.responses.position_ids.tolist() == [[1, 2, 3], [2, 3, 1]]
    assert tokens.cache_rows.tolist() == [0, 0]
    assert tokens.row_index.tolist() == [0, 1, 2, 5, 3, 4]


def test_a_response_sees_its_prompt_and_itself_and_no_neighbour():
    tokens = SharedPromptTokens.of(THREE)
    _, mask = tokens._second()
    assert mask is not None
    # keys: 12 13 | 10 of the prompts, then the row's own three tokens
    assert mask[1].int().tolist() == [[1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 1, 0], [0, 0, 1, 0, 0, 1]]


def test_prompts_and_responses_of_one_length_need_no_mask():
    tokens = SharedPromptTokens.of([token_ids([1, 2, 3], [4, 5]), token_ids([1, 2, 3], [6, 7])])
    assert (tokens.is_plain, tokens._second()[1]) == (True, None)
    assert tokens.responses.ids.tolist() == [[3, 4], [3, 6]]


def test_equal_prompts_are_one_whichever_groups_they_are_of():
    tokens = SharedPromptTokens.of([token_ids([1, 2], [3]), token_ids([1, 4], [3]), token_ids([4, 2], [5])])
    assert tokens.prompts.ids.tolist() == [[1], [1], [4]]
    assert SharedPromptTokens.of(PAIR).prompts.ids.tolist() == [[10]]


@given(lengths=st.lists(st.integers(0, 30), min_size=1, max_size=40), regions=st.integers(1, 3))
def test_sequences_lie_side_by_side_in_rows_of_their_region(lengths, regions):
    kinds = np.arange(len(lengths)) % regions
    places = placed(np.asarray(lengths), kinds)
    taken = np.zeros((places.num_rows, places.width), int)
    region_of = {}
    for length, row, offset, kind in zip(lengths, places.rows, places.offsets, kinds, strict=True):
        assert offset + length <= places.width
        taken[row, offset : offset + length] += 1
        assert region_of.setdefault(row, kind) == kind
    assert taken.max(initial=0) <= 1 and taken.sum() == sum(lengths)


def test_rows_are_nearly_full():
    lengths = np.random.default_rng(0).lognormal(5.0, 0.8, 64).astype(int)
    places = placed(lengths)
    assert lengths.sum() >= 0.9 * places.num_rows * places.width


@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_sequences_there_is_a_dummy_token_and_no_row(layout: Layout):
    tokens: Any = LAYOUTS[layout].of([])
    ids = tokens.responses.ids if layout == "shared_prompt" else tokens.input_ids
    assert ids.tolist() == [[0]]
    assert tokens.row_index.shape == (0,) and tokens.row_index.dtype == torch.int64


# ---- against each other


def guidance(rng: np.random.Generator, length: int) -> Guidance:
    return Guidance(
        teacher_ids=rng.integers(-1, VOCABULARY, length).astype(np.int32),
        teacher_logprobs=rng.normal(-2.0, 1.0, length).astype(np.float32),
        topk_ids=np.stack([rng.permutation(VOCABULARY)[:TOP_K] for _ in range(length)]).astype(np.int32),
        topk_logprobs=rng.normal(-2.0, 1.0, (length, TOP_K)).astype(np.float32),
        hidden=rng.normal(size=(length, TEACHER_WIDTH)).astype(np.float32),
        values=rng.normal(size=length).astype(np.float32),
    )


def groups(shapes: Sequence[tuple[int, Sequence[int]]] = SHAPES) -> list[Piece]:
    """Groups of ragged lengths; all scorers answer, and an environment speaks in the longer responses."""
    rng, pieces = np.random.default_rng(3), []
    for ordinal, (prompt_length, lengths) in enumerate(shapes):
        prompt, episodes = rng.integers(2, VOCABULARY, prompt_length), []
        for length in lengths:
            origin = np.where((np.arange(length) == 2) & (length > 5), ORIGIN_ENVIRONMENT, ORIGIN_POLICY)
            answers = {name: guidance(rng, length) for name in ("teacher", "reference", "advantage")}
            one = make_episode(
                prompt=prompt,
                response=rng.integers(2, VOCABULARY, length),
                origin=origin,
                reward=float(length % 2),
                old_logprobs=rng.normal(-2.5, 0.1, length).astype(np.float32),
                guidance=answers,
            )
            episodes.append(one)
        advantages = rng.normal(size=len(episodes)).astype(np.float32)
        pieces.append(Piece(ordinal, EpisodeGroup(tuple(episodes)), {}, advantages, tuple(range(len(episodes)))))
    return pieces


Accumulated = tuple[dict[str, float], dict[str, tuple[float, float]], dict[str, Tensor]]


def accumulated(learner: Learner, micro_batches: Sequence[MicroBatch], loss: TokenLoss) -> Accumulated:
    """Loss sums, metrics and gradients; the learner is as before."""
    metrics = learner.accumulate(micro_batches, loss)
    parameters = dict(learner._strategy.module.named_parameters())
    gradients = {name: p.grad.clone() for name, p in parameters.items() if p.grad is not None}
    learner._strategy.module.zero_grad(set_to_none=True)
    return learner.take_loss_sums(), metrics, gradients


def assert_same(found: Accumulated, expected: Accumulated, tolerance: float = 1e-6) -> None:
    """Gradients to `tolerance` times their largest entry; loss and metrics to rounding of float32."""
    for ours, theirs in zip(found[:2], expected[:2], strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            assert value == pytest.approx(theirs[name], rel=2e-5, abs=2e-5), name
    scale = max(float(gradient.abs().max()) for gradient in expected[2].values())
    gaps = {name: float((found[2][name] - gradient).abs().max()) / scale for name, gradient in expected[2].items()}
    assert found[2].keys() == expected[2].keys()
    assert scale == 0.0 or max(gaps.values()) <= tolerance, gaps


@pytest.fixture(scope="module")
def learners(tiny_models) -> dict[str, Learner]:
    return {layout: Learner(spec_of(tiny_models["policy"], layout=layout)) for layout in LAYOUTS}


@pytest.fixture(scope="module")
def untied(tiny_models) -> dict[str, Learner]:
    """Qwen3, which normalises queries and keys."""
    return {layout: Learner(spec_of(tiny_models["teacher"], layout=layout)) for layout in LAYOUTS}


def loss_of(name: str, teacher: str) -> TokenLoss:
    loss: Any = LOSSES[name]()
    if loss.divergence is None:
        return loss
    return replace(loss, against=Divergence(0.5, 0.7, teacher, VOCABULARY))


@pytest.mark.parametrize("layout", OTHERS)
@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_and_gradient_is_that_of_padded_sequences(tiny_models, learners, name: str, layout: Layout):
    loss = loss_of(name, tiny_models["teacher"])
    expected = accumulated(learners["padded"], [groups()], loss)
    assert_same(accumulated(learners[layout], [groups()], loss), expected)


@pytest.mark.parametrize("layout", OTHERS)
def test_the_same_of_a_model_with_an_untied_head(untied, layout: Layout):
    loss = GuidedPolicyLoss(guidance_weight=0.3, entropy_weight=0.01)
    assert_same(accumulated(untied[layout], [groups()], loss), accumulated(untied["padded"], [groups()], loss))


@pytest.mark.parametrize("layout", OTHERS)
def test_the_same_with_plain_attention_whose_masks_are_numbers(tiny_models, learners, layout: Layout):
    loss = GuidedPolicyLoss(guidance_weight=0.3)
    eager = Learner(spec_of(tiny_models["policy"], layout=layout))
    eager._model.config._attn_implementation = "eager"
    expected = accumulated(learners["padded"], [groups()], loss)
    assert_same(accumulated(eager, [groups()], loss), expected)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("num_ranks", [1, 3])
def test_groups_split_over_ranks_and_steps_add_up_to_one_micro_batch(learners, layout: Layout, num_ranks: int):
    loss, whole = GuidedPolicyLoss(guidance_weight=0.3, per_sequence=True, entropy_weight=0.01), groups()
    lengths = {p.ordinal: [len(e.prompt_ids) + len(e.response_ids) for e in p.ref.episodes] for p in whole}
    prompts = {p.ordinal: len(p.ref.episodes[0].prompt_ids) for p in whole}
    ranks = plan_micro_batches(whole, lengths, num_ranks, 18, layout=layout, prompts=prompts)
    micro_batches = [micro_batch for rank in ranks for micro_batch in rank]
    assert len(micro_batches) > 2
    halves = [[replace(piece, members=piece.members[i::2]) for piece in whole] for i in (0, 1)]
    expected = accumulated(learners["padded"], [whole], loss)
    for split in (micro_batches, halves):
        found = accumulated(learners[layout], split, loss)
        assert_same((found[0], {}, found[2]), (expected[0], {}, expected[2]), 2e-6)


@pytest.mark.parametrize("layout", OTHERS)
def test_forward_only_passes_give_the_log_probs_of_padded_sequences(learners, layout: Layout):
    expected, found = learners["padded"].logprobs(groups()), learners[layout].logprobs(groups())
    assert list(found) == list(expected)
    for key, logprobs in expected.items():
        np.testing.assert_allclose(found[key], logprobs, atol=2e-6)
    gaps = [learners[name].sampler_gaps([groups()]) for name in ("padded", layout)]
    np.testing.assert_allclose(np.concatenate(gaps[1]), np.concatenate(gaps[0]), atol=2e-6)
    assert learners[layout].logprobs([]) == {}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_rank_without_episodes_takes_part_with_a_zero_gradient(learners, layout: Layout):
    _, _, gradients = accumulated(learners[layout], [[]], GuidedPolicyLoss())
    assert gradients.keys() == dict(learners[layout]._strategy.module.named_parameters()).keys()
    assert not any(gradient.any() for gradient in gradients.values())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_target_that_the_policy_lacks_is_named_before_the_device_reads_it(learners, layout: Layout):
    wrong = groups()
    wrong[0].ref.episodes[0].guidance["teacher"].teacher_ids[1] = 999
    with pytest.raises(ValueError, match=r"target 999 is outside \[0, \d+\)"):
        learners[layout].accumulate([wrong], GuidedPolicyLoss())


def varlen_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any, **options: Any):
    """What the kernels of flash attention compute, one sequence after the other: (1, H, T, D) -> (1, T, H, D)."""
    assert attention_mask is None and (options["max_length_q"], options["max_length_k"]) == (15, 15)
    bounds = options["cu_seq_lens_q"].tolist()
    assert bounds == options["cu_seq_lens_k"].tolist()
    parts = [
        torch.nn.functional.scaled_dot_product_attention(
            query[:, :, start:stop], key[:, :, start:stop], value[:, :, start:stop],
            scale=options["scaling"], is_causal=True, enable_gqa=True,
        )
        for start, stop in pairwise(bounds)
    ]  # fmt: skip
    return torch.cat(parts, 2).transpose(1, 2), None


def test_flash_attention_gets_the_bounds_of_packed_sequences(tiny_models, learners):
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    ALL_ATTENTION_FUNCTIONS.register("flash_by_hand", varlen_attention)
    ALL_MASK_ATTENTION_FUNCTIONS.register("flash_by_hand", flash_attention_mask)
    loss = GuidedPolicyLoss(guidance_weight=0.3, entropy_weight=0.01)
    expected = accumulated(learners["padded"], [groups()], loss)
    packed = Learner(spec_of(tiny_models["policy"], layout="packed"))
    packed._model.config._attn_implementation = "flash_by_hand"
    assert_same(accumulated(packed, [groups()], loss), expected)
