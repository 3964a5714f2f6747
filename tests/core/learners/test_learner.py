"""One rank, alone in this process: gradients and updates against plain autograd, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.core.learners.learner_cases import (
    ALL,
    ENTROPY_WEIGHT,
    TEMPERATURE,
    episode,
    piece,
    spec_of,
    three_groups,
    weights,
)
from tgpo_ray.algorithms.advantages import group_standardized
from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss, PolicyLoss, SFTLoss
from tgpo_ray.episode import ORIGIN_POLICY
from tgpo_ray.kernels import TokenLoss, TokenRows
from tgpo_ray.learners.learner import Learner, LearnerSpec, load_policy
from tgpo_ray.learners.planning import MicroBatch, Piece, plan_micro_batches
from tgpo_ray.learners.strategies import StrategyOptions


@dataclass(frozen=True)
class SequenceLoss(TokenLoss):
    """-A_i log pi(y_i) / |y_i| * pi(y_i)^(1/|y_i|): each token's gradient needs all of its sequence."""

    needs_sequence: ClassVar[bool] = True

    def prepare(self, logprobs: Tensor, rows: TokenRows) -> TokenRows:
        means = torch.zeros(int(rows.sequence.max()) + 1).index_add(0, rows.sequence, logprobs[:, 0] / rows.lengths)
        return rows.with_extra(weight=means.exp()[rows.sequence] * rows.advantages / rows.lengths)

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        return -rows.extra["weight"] * rows.mask * logprobs[:, 0]


@pytest.fixture(scope="module")
def pieces() -> list[Piece]:
    return three_groups()


def split(pieces: Sequence[Piece]) -> list[MicroBatch]:
    """One sequence in each micro-batch: nothing is padded."""
    return [[replace(group, members=(i,))] for group in pieces for i in group.members]


def gradients(learner: Learner) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in learner._strategy.module.named_parameters()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def accumulated(spec: LearnerSpec, micro_batches: Sequence[MicroBatch], loss: TokenLoss = ALL) -> dict[str, Tensor]:
    learner = Learner(spec)
    learner.accumulate(micro_batches, loss)
    return gradients(learner)


def assert_equal(left: dict[str, Tensor], right: dict[str, Tensor], tolerance: float = 1e-6) -> None:
    """Equal to `tolerance` times the largest entry of all: float32 rounds each sum of many at that scale."""
    assert left.keys() == right.keys()
    scale = max(float(tensor.abs().max()) for tensor in right.values())
    gaps = {name: float((left[name] - right[name]).abs().max()) / scale for name in left}
    assert max(gaps.values()) <= tolerance, gaps


def reference_gradients(model_path: str, pieces: Sequence[Piece]) -> dict[str, Tensor]:
    """Of sum_it m_it (-A_i log pi - entropy_weight H): plain transformers, one unpadded sequence after the other."""
    model: Any = load_policy(spec_of(model_path))
    for group in pieces:
        for i in group.members:
            sequence = group.ref.episodes[i]
            start = len(sequence.prompt_ids)
            ids = torch.from_numpy(np.concatenate([sequence.prompt_ids, sequence.response_ids]).astype(np.int64))
            logits = model(input_ids=ids[None]).logits[0, start - 1 : -1] / TEMPERATURE  # (T, V)
            mask = torch.from_numpy(sequence.origin == ORIGIN_POLICY).float()
            nll = F.cross_entropy(logits, ids[start:], reduction="none")
            entropy = torch.distributions.Categorical(logits=logits).entropy()
            (mask * (float(group.advantages[i]) * nll - ENTROPY_WEIGHT * entropy)).sum().backward()
    return {f"model.{name}": parameter.grad for name, parameter in model.named_parameters()}


# ---- gradients


def test_gradient_is_that_of_plain_autograd_and_only_policy_tokens_take_part(tiny_models, pieces):
    assert_equal(
        accumulated(spec_of(tiny_models["policy"]), [pieces]), reference_gradients(tiny_models["policy"], pieces)
    )


def test_gradient_of_an_untied_head_is_that_of_plain_autograd(tiny_models, pieces):
    model = tiny_models["teacher"]  # Qwen3, untied
    assert_equal(accumulated(spec_of(model), [pieces]), reference_gradients(model, pieces))


def test_padding_micro_batch_split_and_order_change_no_gradient(tiny_models, pieces):
    spec = spec_of(tiny_models["policy"])
    whole = accumulated(spec, [pieces])
    assert_equal(whole, accumulated(spec, split(pieces)))
    assert_equal(whole, accumulated(spec, [pieces[::-1]]))
    assert_equal(whole, accumulated(spec, [[replace(group, members=group.members[::-1])] for group in pieces]))
    wide = piece(3, [episode(9, 40)], [0.0])  # no advantage and no entropy bonus: its padding alone is felt
    without_entropy = PolicyLoss()
    assert_equal(accumulated(spec, [[*pieces, wide]], without_entropy), accumulated(spec, [pieces], without_entropy))


@pytest.mark.parametrize("num_ranks", [1, 2, 3])
@pytest.mark.parametrize("loss", [ALL, SequenceLoss(), PolicyLoss(per_sequence=True)], ids=["all", "sequence", "mean"])
def test_planned_ranks_and_steps_add_up_to_the_gradient_of_one_micro_batch(tiny_models, pieces, num_ranks, loss):
    spec, plain = spec_of(tiny_models["policy"]), pieces[1:]
    lengths = {group.ordinal: [5 + len(one.response_ids) for one in group.ref.episodes] for group in plain}
    ranks = plan_micro_batches(plain, lengths, num_ranks, token_budget=20)
    assert sum(len(micro_batch) for rank in ranks for micro_batch in rank) == 4  # both groups are split
    micro_batches = [micro_batch for rank in ranks for micro_batch in rank if micro_batch]
    assert_equal(accumulated(spec, micro_batches, loss), accumulated(spec, [plain], loss))


def test_updated_weights_do_not_depend_on_split_and_order(tiny_models, pieces):
    spec = spec_of(tiny_models["policy"])
    results = []
    for micro_batches in ([pieces], split(pieces), [[group] for group in pieces[::-1]]):
        learner = Learner(spec)
        norms = []
        for _ in range(2):
            learner.accumulate(micro_batches, ALL)
            norms.append(learner.step(32.0, 1e-4)["grad_norm"])
        results.append((weights(learner), norms))
    for found, norms in results[1:]:
        assert_equal(found, results[0][0], 2e-6)
        assert norms == pytest.approx(results[0][1], rel=1e-5)


def test_grad_norm_is_that_of_the_gradient_over_the_denominator(tiny_models, pieces):
    reference = reference_gradients(tiny_models["policy"], pieces)
    norm = torch.stack([gradient.norm() for gradient in reference.values()]).norm() / 32.0
    learner = Learner(spec_of(tiny_models["policy"]))
    learner.accumulate([pieces], ALL)
    assert learner.step(32.0, 1e-3)["grad_norm"] == pytest.approx(float(norm), rel=1e-5)


def test_doubling_a_response_doubles_its_share_of_the_denominator(tiny_models):
    short, once = episode(0, 4), episode(1, 6)
    twice = replace(once, response_ids=np.tile(once.response_ids, 2), origin=np.tile(once.origin, 2), guidance={})
    assert (once.num_policy_tokens, twice.num_policy_tokens) == (6, 12)
    learner = Learner(spec_of(tiny_models["policy"]))
    sums = learner.accumulate([[piece(0, [short, twice], [0.0, 0.0])]], SFTLoss())
    alone = [learner.accumulate([[piece(0, [one], [0.0])]], SFTLoss())["loss/sft"] for one in (short, twice)]
    assert [count for _, count in alone] == [4.0, 12.0]  # all tokens weigh the same: 12 of 16 are the long one's
    assert sums["loss/sft"] == pytest.approx((alone[0][0] + alone[1][0], 16.0), rel=1e-6)


def test_equal_rewards_give_no_policy_gradient_but_guidance(tiny_models):
    advantages = group_standardized(np.asarray([0.3, 0.3]))
    group = [[piece(0, [episode(0, 5), episode(1, 8)], list(advantages))]]
    spec = spec_of(tiny_models["policy"])
    assert all(not gradient.any() for gradient in accumulated(spec, group, PolicyLoss()).values())
    guided = accumulated(spec, group, GuidedPolicyLoss(guidance_weight=0.1))
    assert all(gradient.any() for gradient in guided.values())


def test_a_group_whose_teacher_failed_trains_without_guidance(tiny_models, pieces):
    unguided = piece(7, [episode(8, 5, guided=False)], [1.0])
    learner = Learner(spec_of(tiny_models["policy"]))
    sums = learner.accumulate([[pieces[1], unguided]], GuidedPolicyLoss(guidance_weight=0.1))
    assert sums["guidance/coverage"] == (7.0, 12.0)


def test_tgpo_without_weight_is_grpo_to_the_bit(tiny_models, pieces):
    found = []
    for loss in (ALL, GuidedPolicyLoss(entropy_weight=ENTROPY_WEIGHT, guidance_weight=0.0)):
        learner = Learner(spec_of(tiny_models["policy"]))
        for _ in range(2):
            learner.accumulate([pieces[:2], pieces[2:]], loss)
            learner.step(32.0, 1e-3)
        found.append(weights(learner))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_sequence_loss_sees_whole_sequences_in_any_split(tiny_models, pieces):
    spec = spec_of(tiny_models["policy"])
    plain = pieces[1:]  # no environment tokens: lengths and rows agree
    found = accumulated(spec, [plain], SequenceLoss())
    assert_equal(found, accumulated(spec, split(plain), SequenceLoss()))
    model: Any = load_policy(spec)
    for group in plain:
        for i in group.members:
            one = group.ref.episodes[i]
            ids = torch.from_numpy(np.concatenate([one.prompt_ids, one.response_ids]).astype(np.int64))
            logits = model(input_ids=ids[None]).logits[0, len(one.prompt_ids) - 1 : -1] / TEMPERATURE
            mean = -F.cross_entropy(logits, ids[len(one.prompt_ids) :])
            (-float(group.advantages[i]) * mean.exp()).backward()  # d exp(m) = exp(m) dm
    assert_equal(found, {f"model.{name}": parameter.grad for name, parameter in model.named_parameters()})


def test_gradient_checkpointing_gives_the_same_gradient(tiny_models, pieces):
    spec = spec_of(tiny_models["policy"])
    assert_equal(accumulated(replace(spec, gradient_checkpointing=True), [pieces]), accumulated(spec, [pieces]))


def test_empty_micro_batch_adds_nothing_and_a_step_on_it_is_legal(tiny_models, pieces):
    learner = Learner(spec_of(tiny_models["policy"]))
    assert learner.accumulate([[]], ALL).get("policy/entropy", (0.0, 0.0)) == (0.0, 0.0)
    assert all(not gradient.any() for gradient in gradients(learner).values())


def test_bfloat16_is_autocast_over_float32_weights(tiny_models, pieces):
    spec = spec_of(tiny_models["policy"], options=StrategyOptions(dtype="bfloat16", lr=1e-3))
    learner = Learner(spec)
    learner.accumulate([pieces], ALL)
    half, exact = gradients(learner), accumulated(spec_of(tiny_models["policy"]), [pieces])
    for name in exact:  # 8 bits of mantissa through two layers
        assert half[name].dtype == torch.float32
        assert F.cosine_similarity(half[name].flatten(), exact[name].flatten(), dim=0) > 0.99, name
    assert np.isfinite(learner.step(32.0, 1e-3)["grad_norm"])
    assert {weight.dtype for _, weight in learner.named_weights()} == {torch.bfloat16}
