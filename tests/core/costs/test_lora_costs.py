"""What adapters cost: counted parameters, their gradients and optimizer, less arithmetic, no reference."""

from __future__ import annotations

from typing import Any

import pytest

from tgpo_ray.algorithms import GRPOConfig
from tgpo_ray.config import ConfigError
from tgpo_ray.costs import TrainingState, loss_memory, parse_cluster, shape_of, training_memory
from tgpo_ray.costs.building import actors_of, batch_of
from tgpo_ray.costs.work import exchanged_bytes, learner_work
from tgpo_ray.models import LoraSpec

NAME = "Qwen/Qwen2.5-Math-1.5B"
LORA = LoraSpec(16, 32.0)
# 16 * (in + out) of q, k, v, o and the MLP's three, in 28 layers
ADAPTERS = 28 * 16 * (2 * (1536 + 1536) + 2 * (1536 + 256) + 3 * (1536 + 8960))
SIZE: dict[str, Any] = {
    "sequences": 32,
    "prompt": 100,
    "response": 200,
    "useful": 1.0,
    "micro_batches": 1,
    "updates": 1,
}


@pytest.fixture(scope="module")
def shapes() -> tuple[Any, Any]:
    """The model whose weights all train, and the one with adapters."""
    return shape_of(NAME, {}), shape_of(NAME, {}, lora=LORA)


def test_adapters_are_counted(shapes):
    full, lora = shapes
    assert (full.adapters, full.trained) == (0, full.parameters)
    assert (lora.adapters, lora.trained, lora.parameters) == (ADAPTERS, ADAPTERS, full.parameters)
    assert shape_of(NAME, {}, lora=LoraSpec(2, 4.0, target_modules=("q_proj",))).adapters == 28 * 2 * (2 * 1536)
    with pytest.raises(ConfigError, match=r"target_modules: nothing is no linear layer of Qwen2ForCausalLM"):
        shape_of(NAME, {}, lora=LoraSpec(2, 4.0, target_modules=("nothing",)))


@pytest.mark.parametrize(
    ("engine", "stage", "ranks", "half", "weights", "gradients", "optimizer"),
    [
        ("torch", 0, 2, False, (4, 4), 4, 8),
        ("torch", 0, 2, True, (2, 6), 4, 8),  # the frozen weights in bfloat16, the adapters with autocast's copies
        ("deepspeed", 0, 2, False, (4, 4), 4, 8),
        ("deepspeed", 2, 4, True, (2, 2), 6 / 4, 12 / 4),
    ],
)
def test_gradients_and_optimizer_are_those_of_the_adapters(
    shapes, engine, stage, ranks, half, weights, gradients, optimizer
):
    state = TrainingState(ranks, engine, stage, "none", half, frozen=True)
    found = training_memory(shapes[1], state)
    assert found.weights == weights[0] * shapes[1].parameters + weights[1] * ADAPTERS
    assert (found.gradients, found.optimizer) == (gradients * ADAPTERS, optimizer * ADAPTERS)


def test_zero_3_takes_frozen_weights_apart_too(shapes):
    lora = shapes[1]
    found = training_memory(lora, TrainingState(4, "deepspeed", 3, "none", half=True, frozen=True))
    assert found.weights == 2 * (lora.parameters + ADAPTERS) / 4 + 4 * lora.largest
    assert (found.gradients, found.optimizer) == (4 * ADAPTERS / 4, 12 * ADAPTERS / 4)


def test_a_frozen_head_has_no_gradient(shapes):
    state = TrainingState(1, "torch", 0, "none", half=False)
    full, lora = (loss_memory(shape, 512, state, "gpu", with_entropy=False) for shape in shapes)
    assert full - lora == 4 * full_head(shapes[0])


def full_head(shape: Any) -> int:
    return 1536 * shape.vocabulary


def test_a_learner_computes_no_gradients_of_frozen_weights_and_sends_those_of_adapters(shapes):
    state = TrainingState(2, "torch", 0, "none", half=False, frozen=True)
    full, lora = (learner_work(shape, state, **SIZE, checkpointing=False, extra_passes=0) for shape in shapes)
    tokens, rows = 32 * 300, 32 * 200
    saved = 2 * shapes[0].active * tokens + 2 * shapes[0].head * rows
    attention = (full.flops - 6 * shapes[0].active * tokens - 6 * shapes[0].head * rows) / 3
    assert full.flops - lora.flops == pytest.approx(saved + attention - 6 * ADAPTERS * tokens)
    assert exchanged_bytes(shapes[1], state, micro_batches=1, updates=1) == pytest.approx(4 * ADAPTERS)


def test_a_kl_to_the_model_below_is_a_pass_of_the_learners_and_no_actor():
    config = GRPOConfig().environment("tgpo/Math-v0").models(path=NAME, lora={}).training(kl_weight=0.1)
    cluster = parse_cluster("8xH100-80GB")

    def kinds_of(config: Any) -> dict[str, Any]:
        resolved = config.resolved(gpus=True)
        return {it.kind: it for it in actors_of(resolved, cluster, batch_of(resolved, None, None))}

    lora = kinds_of(config)
    assert "reference" not in lora and lora["learner"].extra_passes == 1.5  # and the second update's old ones
    assert lora["learner"].shape.adapters == ADAPTERS
    full = kinds_of(config.models(lora=None))
    assert "reference" in full and full["learner"].extra_passes == 0.5
    assert lora["learner"].memory(1).optimizer == 8 * ADAPTERS
