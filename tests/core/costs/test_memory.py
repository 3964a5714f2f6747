"""Memory against hand-computed 7B numbers, DeepSpeed's own estimates, and what autograd keeps of real layers."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from tgpo_ray.costs import Memory, TrainingState, activation_memory, loss_memory, shape_of, training_memory
from tgpo_ray.costs.memory import LOSS_CHUNK, SCORING_CHUNK, engine_memory, layer_bytes, sequences_held
from tgpo_ray.kernels import CPU_CHUNK_BYTES, CUDA_CHUNK_BYTES
from tgpo_ray.models.lean_scoring import CHUNK_BYTES

N = 7_615_616_512  # parameters of Qwen2.5-Math-7B
GATHERED = 4 * 152064 * 3584  # ZeRO-3: the embedding in bfloat16, twice


def policy_7b() -> Any:
    return shape_of("Qwen/Qwen2.5-Math-7B", {})


def deepspeed(stage: int, num_learners: int, offload: str = "none") -> TrainingState:
    return TrainingState(num_learners, "deepspeed", stage, offload, half=True)


@pytest.mark.parametrize(
    ("state", "weights", "gradients", "optimizer", "host"),
    [
        (TrainingState(4, "torch", 0, "none", half=False), 4 * N, 4 * N, 8 * N, 0),
        (TrainingState(4, "torch", 0, "none", half=True), 6 * N, 4 * N, 8 * N, 0),  # and autocast's copies
        (deepspeed(0, 4), 2 * N, N / 2 + N, 3 * N, 0),  # stage 2: DeepSpeed's bfloat16 needs it
        (deepspeed(2, 8), 2 * N, 6 * N / 8, 12 * N / 8, 0),
        (deepspeed(3, 8), 2 * N / 8 + GATHERED, 4 * N / 8, 12 * N / 8, 0),
        (deepspeed(2, 8, "optimizer"), 2 * N, 0, 0, 16 * N / 8),
        (deepspeed(3, 2, "optimizer"), 2 * N / 2 + GATHERED, 0, 0, 16 * N / 2),
        (deepspeed(3, 2, "optimizer_and_parameters"), GATHERED, 0, 0, 18 * N / 2),
    ],
)
def test_training_state_of_7b(state: TrainingState, weights: float, gradients: float, optimizer: float, host: float):
    found = training_memory(policy_7b(), state)
    assert (found.weights, found.gradients, found.optimizer, found.host) == (weights, gradients, optimizer, host)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2, 8])
@pytest.mark.parametrize("offload", ["none", "optimizer", "optimizer_and_parameters"])
def test_zero_agrees_with_deepspeeds_own_estimates(ranks: int, offload: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    from deepspeed.runtime.zero.stage3 import estimate_zero3_model_states_mem_needs
    from deepspeed.runtime.zero.stage_1_and_2 import estimate_zero2_model_states_mem_needs

    shape = policy_7b()
    here = {"num_gpus_per_node": ranks, "cpu_offload": offload != "none", "additional_buffer_factor": 1.0}
    parameters = offload == "optimizer_and_parameters"
    host, card, _ = estimate_zero3_model_states_mem_needs(N, shape.largest, cpu_offload_params=parameters, **here)
    found = training_memory(shape, deepspeed(3, ranks, offload))
    # where nothing is offloaded the host holds the weights once, as they are loaded
    assert found.on_card == pytest.approx(card, rel=1e-3)
    assert offload == "none" or ranks * found.host == pytest.approx(host, rel=1e-3)
    if not parameters:
        _, card = estimate_zero2_model_states_mem_needs(N, **here)
        assert training_memory(shape, deepspeed(2, ranks, offload)).on_card == pytest.approx(card, rel=1e-3)


def test_kv_cache_of_7b():
    # 2 * 28 layers * 4 heads * 128 numbers * 2 bytes = 56 KiB a token; 9216 tokens: 504 MiB
    held = sequences_held(policy_7b(), 40 * 2**30, 9216, number_bytes=2, tensor_parallel_size=1)
    assert held == 40 * 1024 // 504
    # two cards hold half of the heads each
    assert sequences_held(policy_7b(), 40 * 2**30, 9216, number_bytes=2, tensor_parallel_size=2) == 80 * 1024 // 504


def test_a_cache_of_auto_takes_what_the_card_has_left():
    def engine(available: float) -> Memory:
        size = {"number_bytes": 2, "tensor_parallel_size": 1}
        return engine_memory(policy_7b(), kv_cache="auto", logits=1e9, available=available, **size)

    assert engine(80e9).weights == 2 * N
    assert engine(80e9).on_card == pytest.approx(0.9 * 80e9, abs=1)
    assert engine(8e9).kv_cache == 0


def test_checkpointing_keeps_the_layers_inputs_and_one_layer():
    state, shape = deepspeed(3, 2), policy_7b()
    # each norm 8 bytes * 3584, twice; 4 * 3584 of attention, 4 * 18944 of the MLP and a row of the mask, 2 bytes each
    assert layer_bytes(shape, 9216, state) == 2 * 8 * 3584 + 2 * (4 * 3584 + 4 * 18944 + 9216)
    whole = activation_memory(shape, 16384, 9216, state, checkpointing=False)
    less = activation_memory(shape, 16384, 9216, state, checkpointing=True)
    one = 16384 * layer_bytes(shape, 9216, state)
    assert whole - less == pytest.approx(27 * one - 28 * 3584 * 2 * 16384)


def test_the_logits_of_a_loss_are_a_chunk_however_many_rows():
    state, shape = deepspeed(3, 2), policy_7b()
    few, many = (loss_memory(shape, rows, state, "gpu", with_entropy=True) for rows in (8192, 16384))
    assert many - few == 8192 * 3584 * 6  # hidden states in bfloat16, their gradients in float32
    assert few == 512 * 2**20 + 8192 * 3584 * 6 + 4 * 152064 * 3584
    assert LOSS_CHUNK == {"cpu": CPU_CHUNK_BYTES, "gpu": CUDA_CHUNK_BYTES}
    assert {"cpu": CHUNK_BYTES["cpu"], "gpu": CHUNK_BYTES["cuda"]} == SCORING_CHUNK


def kept_by_a_layer(facts: dict[str, Any], width: int, state: TrainingState) -> float:
    """Bytes a token that autograd keeps of one layer: what a third layer adds to two."""
    from transformers import AutoConfig, AutoModelForCausalLM

    totals = []
    for layers in (2, 3):
        config = AutoConfig.for_model(**facts, num_hidden_layers=layers)
        model = AutoModelForCausalLM.from_config(config).train()
        model = model.to(torch.bfloat16 if state.half and state.engine == "deepspeed" else torch.float32)
        own = {it.untyped_storage().data_ptr() for it in model.parameters()}
        kept: dict[int, Any] = {}

        def keep(tensor: torch.Tensor, own: set[int] = own, kept: dict[int, Any] = kept) -> torch.Tensor:
            storage = tensor.untyped_storage()
            is_cast_weight = tensor.ndim == 2 and tensor.shape[0] != 2 * width and width not in tensor.shape
            if storage.data_ptr() not in own and not (is_cast_weight and state.engine == "torch" and state.half):
                kept[storage.data_ptr()] = tensor
            return tensor

        mask = torch.ones(2, width, dtype=torch.long)
        mask[1, width - 3 :] = 0
        autocast = torch.autocast("cpu", torch.bfloat16, enabled=state.half and state.engine == "torch")
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast:
            ids = torch.randint(0, 100, (2, width))
            model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        totals.append(sum(it.untyped_storage().nbytes() for it in kept.values()))
    return (totals[1] - totals[0]) / (2 * width)


@pytest.mark.parametrize("kind", ["qwen2", "qwen3", "llama"])
@pytest.mark.parametrize(("engine", "half"), [("torch", False), ("deepspeed", True), ("torch", True)])
def test_activations_are_those_that_autograd_keeps(kind: str, engine: Any, half: bool):
    facts = {
        "model_type": kind, "hidden_size": 96, "intermediate_size": 320, "num_attention_heads": 6,
        "num_key_value_heads": 2, "vocab_size": 100, "max_position_embeddings": 256, "tie_word_embeddings": False,
    }  # fmt: skip
    facts |= {"head_dim": 16}
    state = TrainingState(1, engine, 0, "none", half)
    shape = replace(shape_of("m", {}, {"m": facts | {"num_hidden_layers": 2}}))
    assert layer_bytes(shape, 50, state) == pytest.approx(kept_by_a_layer(facts, 50, state), rel=0.06)
