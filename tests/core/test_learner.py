"""One rank, alone in this process: gradients and updates against plain autograd, and what is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tgpo_ray.algorithms.advantages import group_standardized
from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss, PolicyLoss, SFTLoss
from tgpo_ray.batch import MicroBatch, Piece
from tgpo_ray.episode import ORIGIN_ENVIRONMENT, ORIGIN_POLICY, Episode, EpisodeGroup, Guidance
from tgpo_ray.kernels import TokenLoss, TokenRows
from tgpo_ray.learner import Learner, LearnerSpec, load_policy
from tgpo_ray.learner_engines import EngineOptions

TEMPERATURE = 0.7
ENTROPY_WEIGHT = 0.01
ALL = PolicyLoss(entropy_weight=ENTROPY_WEIGHT)


@dataclass(frozen=True)
class SequenceLoss(TokenLoss):
    """-A_i log pi(y_i) / |y_i| * pi(y_i)^(1/|y_i|): each token's gradient needs all of its sequence."""

    needs_sequence: ClassVar[bool] = True

    def prepare(self, logprobs: Tensor, rows: TokenRows) -> TokenRows:
        means = torch.zeros(int(rows.sequence.max()) + 1).index_add(0, rows.sequence, logprobs[:, 0] / rows.lengths)
        return rows.with_extra(weight=means.exp()[rows.sequence] * rows.advantages / rows.lengths)

    def __call__(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Tensor:
        return -rows.extra["weight"] * rows.mask * logprobs[:, 0]


def spec_of(model: str, **changes: Any) -> LearnerSpec:
    options = changes.pop("options", EngineOptions(lr=1e-3))
    return LearnerSpec(model, model, options, temperature=TEMPERATURE, threads=1, **changes)


def episode(seed: int, length: int, *, guided: bool = True, environment: slice = slice(0)) -> Episode:
    """5 prompt tokens, `length` response tokens; `environment` says which of those the environment wrote."""
    rng = np.random.default_rng(seed)
    prompt_ids, response_ids, teacher_ids = (rng.integers(2, 20, size).astype(np.int32) for size in (5, length, length))
    origin = np.full(length, ORIGIN_POLICY, np.uint8)
    origin[environment] = ORIGIN_ENVIRONMENT
    guidance = {"teacher": Guidance(teacher_ids=teacher_ids)} if guided else {}
    return Episode(prompt_ids, response_ids, origin, 1.0, "correct", "stop", "x", 0, 0, 1, guidance=guidance)


def piece(key: int, episodes: Sequence[Episode], advantages: Sequence[float]) -> Piece:
    group = EpisodeGroup(tuple(episodes))
    return Piece(key, group, {}, np.asarray(advantages, np.float32), tuple(range(len(episodes))))


@pytest.fixture(scope="module")
def pieces() -> list[Piece]:
    """Three groups of two; in the first an environment speaks in the middle of a response."""
    return [
        piece(0, [episode(0, 9, environment=slice(3, 6)), episode(1, 3)], [1.0, -1.0]),
        piece(1, [episode(2, 6), episode(3, 1)], [0.5, -0.5]),
        piece(2, [episode(4, 4), episode(5, 12)], [-2.0, 2.0]),
    ]


def split(pieces: Sequence[Piece]) -> list[MicroBatch]:
    """One sequence in each micro-batch: nothing is padded."""
    return [[replace(group, members=(i,))] for group in pieces for i in group.members]


def gradients(learner: Learner) -> dict[str, Tensor]:
    found = {name: parameter.grad for name, parameter in learner._engine.module.named_parameters()}
    return {name: gradient.clone() for name, gradient in found.items() if gradient is not None}


def accumulated(spec: LearnerSpec, micro_batches: Sequence[MicroBatch], loss: TokenLoss = ALL) -> dict[str, Tensor]:
    learner = Learner(spec)
    learner.accumulate(micro_batches, loss)
    return gradients(learner)


def weights(learner: Learner) -> dict[str, Tensor]:
    return {name: weight.clone() for name, weight in learner.named_weights()}


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


def test_updated_weights_do_not_depend_on_split_and_order(tiny_models, pieces):
    spec = spec_of(tiny_models["policy"])
    results = []
    for micro_batches in ([pieces], split(pieces), [[group] for group in pieces[::-1]]):
        learner = Learner(spec)
        for _ in range(2):
            learner.accumulate(micro_batches, ALL)
            metrics = learner.step(32.0, 1e-4)
        results.append((weights(learner), metrics["grad_norm"]))
    for found, norm in results[1:]:
        assert_equal(found, results[0][0], 2e-6)
        assert norm == pytest.approx(results[0][1], rel=1e-5)


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
    spec = spec_of(tiny_models["policy"], options=EngineOptions(dtype="bfloat16", lr=1e-3))
    learner = Learner(spec)
    learner.accumulate([pieces], ALL)
    half, exact = gradients(learner), accumulated(spec_of(tiny_models["policy"]), [pieces])
    for name in exact:  # 8 bits of mantissa through two layers
        assert half[name].dtype == torch.float32
        assert F.cosine_similarity(half[name].flatten(), exact[name].flatten(), dim=0) > 0.99, name
    assert np.isfinite(learner.step(32.0, 1e-3)["grad_norm"])
    assert {weight.dtype for _, weight in learner.named_weights()} == {torch.bfloat16}


# ---- old log-probabilities


def test_remembered_logprobs_give_the_ratio_of_later_updates(tiny_models, pieces):
    learner = Learner(spec_of(tiny_models["policy"]))
    plain = pieces[1:]
    old = learner.logprobs(plain)
    learner.remember_logprobs([plain])
    assert learner.accumulate([plain], ALL)["policy/ratio_deviation"] == pytest.approx((0.0, 23.0), abs=1e-5)
    learner.step(23.0, 1e-2)
    sums = learner.accumulate([plain], ALL)
    new = learner.logprobs(plain)
    deviation = sum(float(np.abs(np.exp(new[key] - old[key]) - 1.0).sum()) for key in old)
    assert deviation > 0.1
    assert sums["policy/ratio_deviation"] == pytest.approx((deviation, 23.0), rel=1e-4)
    learner.forget_logprobs()
    assert "policy/ratio_deviation" not in learner.accumulate([plain], ALL)


def test_logprobs_carried_by_episodes_are_the_old_ones(tiny_models):
    learner = Learner(spec_of(tiny_models["policy"]))
    bare = piece(0, [episode(0, 6)], [1.0])
    own = learner.logprobs([bare])[0, 0]
    carried = replace(bare.ref.episodes[0], old_logprobs=own - 0.1)
    sums = learner.accumulate([[piece(0, [carried], [1.0])]], ALL)
    assert sums["policy/ratio_deviation"][0] == pytest.approx(6 * (np.exp(0.1) - 1.0), rel=1e-4)


# ---- what is refused


def test_gradient_that_is_not_finite_stops_the_run(tiny_models):
    learner = Learner(spec_of(tiny_models["policy"]))
    learner.accumulate([[piece(0, [episode(0, 5)], [float("nan")])]], ALL)
    with pytest.raises(FloatingPointError, match=r"gradient norm of update 1 is nan: lower training\.lr"):
        learner.step(5.0, 1e-3)


def test_soft_capped_model_is_refused(tiny_models, tmp_path):
    folder = shutil.copytree(tiny_models["policy"], tmp_path / "capped")
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"final_logit_softcapping": 30.0}))
    with pytest.raises(
        ValueError, match=r"sets final_logit_softcapping = 30\.0: its logits are changed after the LM head"
    ):
        load_policy(spec_of(str(folder)))


def test_override_that_the_configuration_lacks_is_refused(tiny_models):
    with pytest.raises(ValueError, match=r"hf_overrides\.rope_theta: Qwen2Config .* has no such key.*rope_parameters"):
        load_policy(spec_of(tiny_models["policy"], hf_overrides={"rope_theta": 40000}))


# ---- overrides and folders


def test_overrides_reach_model_and_export(tiny_models, pieces, tmp_path):
    from transformers import AutoConfig

    rope = {"rope_type": "default", "rope_theta": 40.0}
    overrides = {"rope_parameters": rope, "max_position_embeddings": 4096}
    changed = Learner(spec_of(tiny_models["policy"], hf_overrides=overrides))
    plain = Learner(spec_of(tiny_models["policy"]))
    left, right = changed.logprobs(pieces), plain.logprobs(pieces)
    assert max(np.abs(left[key] - right[key]).max() for key in left) > 1e-4
    changed.export(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert (config.rope_parameters, config.max_position_embeddings) == (rope, 4096)
    exported = Learner(spec_of(str(tmp_path))).logprobs(pieces)
    assert all(np.array_equal(left[key], exported[key]) for key in left)


def test_saved_learner_continues_to_the_bit(tiny_models, pieces, tmp_path):
    spec = spec_of(tiny_models["policy"])
    first, second = Learner(spec), Learner(spec)
    first.accumulate([pieces], ALL)
    first.step(32.0, 1e-3)
    first.save(tmp_path)
    second.load(tmp_path)
    assert second.num_steps == 1
    for learner in (first, second):
        learner.accumulate([pieces], ALL)
        learner.step(32.0, 1e-3)
    left, right = weights(first), weights(second)
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_tied_weights_are_published_once(tiny_models):
    names = [name for name, _ in Learner(spec_of(tiny_models["policy"])).named_weights()]
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names
    untied = [name for name, _ in Learner(spec_of(tiny_models["teacher"])).named_weights()]
    assert {"model.embed_tokens.weight", "lm_head.weight"} <= set(untied)
