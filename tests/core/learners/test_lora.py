"""A learner that trains adapters, against one that trains all of the same merged weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.core.learners.learner_cases import ALL, episode, piece, spec_of, three_groups, weights
from tgpo_ray.algorithms.token_losses import PolicyLoss
from tgpo_ray.learners.learner import Learner
from tgpo_ray.learners.planning import Piece
from tgpo_ray.learners.strategies import StrategyOptions
from tgpo_ray.models.adapters import NAME
from tgpo_ray.models.lora_spec import LoraSpec

LORA = LoraSpec(rank=4, alpha=8.0)
Z = 32.0
WITH_KL = PolicyLoss(entropy_weight=0.01, kl_weight=0.5, kl_estimator="k3")


@pytest.fixture(scope="module")
def pieces() -> list[Piece]:
    return three_groups()


def with_lora(model: str, **changes: Any) -> Learner:
    return Learner(spec_of(model, lora=changes.pop("lora", LORA), **changes))


def taught(learner: Learner, pieces: list[Piece], lr: float = 1e-2) -> Learner:
    """The learner after an update, so that B is not 0."""
    learner.accumulate([pieces], ALL)
    learner.step(Z, lr)
    learner.take_loss_sums()
    return learner


@pytest.fixture(scope="module")
def pair(tiny_models: Mapping[str, str], pieces: list[Piece], tmp_path_factory: Any) -> Callable[[str], Any]:
    """pair("policy") -> a learner with adapters after an update, and one that trains all of its merged weights."""
    made: dict[str, tuple[Learner, Learner]] = {}

    def of(model: str) -> tuple[Learner, Learner]:
        if model not in made:
            adapted = taught(with_lora(tiny_models[model]), pieces)
            folder = tmp_path_factory.mktemp(model) / "merged"
            adapted.export(folder, merge=True)
            made[model] = adapted, Learner(spec_of(str(folder)))
        return made[model]

    return of


@pytest.mark.parametrize("model", ["policy", "teacher"])  # a tied head, and a head of its own
def test_losses_and_log_probs_are_those_of_the_merged_weights(pair, pieces, model):
    adapted, full = pair(model)
    left, right = adapted.logprobs(pieces), full.logprobs(pieces)
    assert max(np.abs(left[key] - right[key]).max() for key in left) < 1e-5
    sums = [learner.accumulate([pieces], ALL) for learner in pair(model)]
    losses = [learner.take_loss_sums() for learner in (adapted, full)]
    assert losses[0]["total"] == pytest.approx(losses[1]["total"], rel=1e-4)
    assert sums[0]["policy/entropy"] == pytest.approx(sums[1]["policy/entropy"], rel=1e-5)


@pytest.mark.parametrize("model", ["policy", "teacher"])
def test_gradients_follow_from_those_of_the_merged_weights(pair, pieces, model):
    """W + s B A: dA = s B^T dW and dB = s dW A^T."""
    adapted, full = pair(model)
    for learner in (adapted, full):
        learner._strategy.module.zero_grad()
        learner.accumulate([pieces], ALL)
    merged = dict(full._model.named_parameters())
    for name, layer in adapted._adapters.layers.items():
        a, b, by_weight = layer.lora_A[NAME].weight, layer.lora_B[NAME].weight, merged[f"{name}.weight"].grad
        scale = LORA.alpha / LORA.rank
        for gradient, expected in ((a.grad, scale * b.t() @ by_weight), (b.grad, scale * by_weight @ a.t())):
            assert (gradient - expected).norm() <= 1e-3 * expected.norm() + 1e-7, name
    trained = {name for name, it in adapted._strategy.module.named_parameters() if it.grad is not None}
    assert all(".lora_" in name for name in trained) and len(trained) == 2 * len(adapted._adapters.layers)


def test_only_adapters_have_an_optimizer_and_only_they_change(tiny_models, pieces):
    learner = with_lora(tiny_models["policy"])
    before = {name: it.clone() for name, it in learner._model.named_parameters()}
    taught(learner, pieces)
    changed = {name for name, it in learner._model.named_parameters() if not torch.equal(it, before[name])}
    assert changed == {name for name in before if ".lora_" in name}
    states = learner._strategy._optimizer.state  # pyright: ignore[reportAttributeAccessIssue]
    assert sum(len(state["exp_avg"].flatten()) for state in states.values()) == sum(
        it.numel()
        for it in learner._adapters.parameters()  # pyright: ignore[reportOptionalMemberAccess]
    )


# ---- the frozen reference


def test_the_model_below_is_the_reference_at_temperature_one(tiny_models, pieces):
    adapted = taught(with_lora(tiny_models["policy"]), pieces)
    frozen = Learner(replace(spec_of(tiny_models["policy"]), temperature=1.0))
    left, right = adapted.base_logprobs(pieces), frozen.logprobs(pieces)
    assert all(np.array_equal(left[key], right[key]) for key in right)
    own = adapted.logprobs(pieces)
    assert max(np.abs(own[key] - left[key]).max() for key in left) > 1e-3


def test_a_kl_to_the_model_below_is_that_to_a_scorers_answers(tiny_models, pieces):
    from tgpo_ray.episode import Guidance

    asks = with_lora(tiny_models["policy"], base_is_reference=True)
    told = with_lora(tiny_models["policy"])
    for learner in (asks, told):
        taught(learner, pieces)
    answers = told.base_logprobs(pieces)
    answered = [
        replace(it, guidance={"reference": [Guidance(teacher_logprobs=answers[it.ordinal, i]) for i in it.members]})
        for it in pieces
    ]
    metrics = asks.accumulate([pieces], WITH_KL), told.accumulate([answered], WITH_KL)
    assert metrics[0]["policy/reference_kl"] == metrics[1]["policy/reference_kl"]
    assert metrics[0]["policy/reference_kl"][0] > 1e-4
    assert asks.take_loss_sums()["reference_kl"] == told.take_loss_sums()["reference_kl"]
    assert asks.step(Z, 1e-3) == told.step(Z, 1e-3)


# ---- what is sent, saved and exported


def test_changed_adapters_go_back_to_the_last_bit(tiny_models, pieces):
    learner = taught(with_lora(tiny_models["policy"]), pieces)
    before = weights(learner)
    learner.change_weights()
    changed = weights(learner)
    moved = {name for name in before if not torch.equal(before[name], changed[name])}
    assert moved == {f"{name}.weight" for name in learner._adapters.layers}  # pyright: ignore[reportOptionalMemberAccess]
    learner.restore_weights()
    assert all(torch.equal(before[name], weight) for name, weight in weights(learner).items())


def test_names_and_order_of_merged_weights_are_those_of_the_model(tiny_models):
    from tgpo_ray.learners.weight_sending import LearnerWeights

    plain, adapted = Learner(spec_of(tiny_models["teacher"])), with_lora(tiny_models["teacher"])
    assert [name for name, _ in adapted.named_weights()] == [name for name, _ in plain.named_weights()]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(adapted.named_weights(), plain.named_weights(), strict=True))
    sent = [LearnerWeights(it._checkpoint, torch.float32, it.named_weights) for it in (plain, adapted)]
    assert [it.name for it in sent[0]._checkpoint.sent(torch.float32)] == [name for name, _ in sent[1]]


def engine_options() -> list[Any]:
    torch_, ds = StrategyOptions(lr=1e-3), StrategyOptions(strategy="deepspeed", lr=1e-3)
    slow = {"torch bf16": replace(torch_, dtype="bfloat16")} | {
        f"stage {stage}": replace(ds, zero_stage=stage) for stage in (0, 2, 3)
    }
    slow |= {f"stage {stage} bf16": replace(ds, zero_stage=stage, dtype="bfloat16") for stage in (1, 3)}
    marked = [pytest.param(it, id=name, marks=pytest.mark.slow) for name, it in slow.items()]
    return [pytest.param(torch_, id="torch"), *marked]


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A process group of this process alone, which DeepSpeed needs and keeps for good."""
    import torch.distributed as dist

    store = tmp_path_factory.mktemp("group") / "store"
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")
        yield
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore")  # those of DeepSpeed, in this process
@pytest.mark.parametrize("options", engine_options())
def test_a_checkpoint_is_the_adapters_and_continues_to_the_bit(tiny_models, pieces, tmp_path, options, one_rank):
    first, second = (with_lora(tiny_models["policy"], options=options) for _ in range(2))
    before = weights(first)
    taught(first, pieces)
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    first.save(folder)
    second.load(folder)
    base = Path(tiny_models["policy"], "model.safetensors").stat().st_size
    assert sum(it.stat().st_size for it in folder.rglob("*") if it.is_file()) < 1.2 * base  # all would be 3 bases
    for learner in (first, second):
        taught(learner, pieces, 1e-3)
    left, right = weights(first), weights(second)
    assert all(torch.equal(left[name], right[name]) for name in left)
    assert max((left[name] - before[name]).float().abs().max() for name in left) > 1e-4
    first.change_weights()
    assert any(not torch.equal(left[name], weight) for name, weight in weights(first).items())
    first.restore_weights()
    assert all(torch.equal(left[name], weight) for name, weight in weights(first).items())
    assert first.base_logprobs(pieces).keys() == first.logprobs(pieces).keys()


def test_a_checkpoint_of_other_adapters_or_of_none_is_refused(tiny_models, tmp_path):
    with_lora(tiny_models["policy"]).save(tmp_path)
    message = r"holds other weights than those that train here: model.path and model.lora must be those of its run"
    for other in (
        spec_of(tiny_models["policy"]),
        spec_of(tiny_models["policy"], lora=replace(LORA, rank=2)),
        spec_of(tiny_models["policy"], lora=replace(LORA, target_modules=("q_proj",))),
    ):
        with pytest.raises(ValueError, match=message):
            Learner(other).load(tmp_path)


def test_frozen_weights_stay_in_bfloat16_below_float32_adapters(tiny_models):
    learner = with_lora(tiny_models["policy"], options=StrategyOptions(dtype="bfloat16"))
    dtypes = {name: it.dtype for name, it in learner._model.named_parameters()}
    assert {it for name, it in dtypes.items() if ".lora_" in name} == {torch.float32}
    assert {it for name, it in dtypes.items() if ".lora_" not in name} == {torch.bfloat16}


@pytest.mark.filterwarnings("ignore:torch.jit.script")
def test_an_export_is_a_folder_that_peft_reads(tiny_models, pieces, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    learner = taught(with_lora(tiny_models["policy"]), pieces)
    learner.export(tmp_path / "adapter")
    learner.export(tmp_path / "adapter")  # an adapter's folder is replaced
    assert sorted(it.name for it in (tmp_path / "adapter").iterdir()) == [
        "adapter_config.json", "adapter_model.safetensors",
    ]  # fmt: skip
    base = AutoModelForCausalLM.from_pretrained(tiny_models["policy"])
    read: Any = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).merge_and_unload()
    ours = weights(learner)
    for name, weight in read.named_parameters():
        assert torch.allclose(weight, ours[name], atol=1e-6), name
    learner.export(tmp_path / "adapter", merge=True)  # and a model takes its place
    merged = Learner(spec_of(str(tmp_path / "adapter")))
    assert all(torch.equal(weight, ours[name]) for name, weight in merged.named_weights())


def test_gradient_checkpointing_gives_the_same_gradients(tiny_models, pieces):
    learners = [with_lora(tiny_models["policy"], gradient_checkpointing=it) for it in (True, False)]
    for learner in learners:
        learner.change_weights()  # B is 0, and then A has no gradient
        learner.accumulate([pieces], ALL)
    left, right = ([p.grad for p in it._model.parameters() if p.grad is not None] for it in learners)
    assert len(left) == len(right) == 28  # A and B of 14 layers
    assert all(torch.allclose(a, b, atol=1e-6) and a.any() for a, b in zip(left, right, strict=True))


@pytest.mark.parametrize("layout", ["packed", "shared_prompt"])
def test_every_layout_of_a_micro_batch_reads_adapters(tiny_models, layout):
    groups = [piece(0, [episode(0, 6), episode(1, 4)], [1.0, -1.0])]
    learners = [taught(with_lora(tiny_models["policy"], layout=it), groups) for it in ("padded", layout)]
    left, right = (it.logprobs(groups) for it in learners)
    assert max(np.abs(left[key] - right[key]).max() for key in left) < 1e-4


def test_dropout_of_adapters_is_on_in_training_alone(tiny_models, pieces):
    learner = taught(with_lora(tiny_models["policy"], lora=replace(LORA, dropout=0.5)), pieces)
    assert all(
        np.array_equal(a, b)
        for a, b in zip(learner.logprobs(pieces).values(), learner.logprobs(pieces).values(), strict=True)
    )
    learner.accumulate([pieces], ALL)
    first = learner.take_loss_sums()
    learner.accumulate([pieces], ALL)
    assert learner.take_loss_sums() != first
