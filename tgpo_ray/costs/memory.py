"""Bytes that each actor holds: weights, gradients, optimizer, activations, KV cache, logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tgpo_ray.costs.shapes import ModelShape

MIB, GIB = 2**20, 2**30
# As in `kernels.chunks` and `models.lean_scoring`; importing those would load torch.
LOSS_CHUNK = {"cpu": 56 * MIB, "gpu": 512 * MIB}
SCORING_CHUNK = {"cpu": 16 * MIB, "gpu": 256 * MIB}
STEP_TOKENS = 8192  # tokens of one step of vLLM's prefill
CARD_SHARE = 0.9  # of a card that is planned for: CUDA's context, NCCL's buffers and fragments take the rest


@dataclass(frozen=True)
class Memory:
    """Bytes of one actor on each of its cards, and in the host's memory."""

    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    activations: float = 0.0
    kv_cache: float = 0.0
    logits: float = 0.0
    host: float = 0.0

    @property
    def on_card(self) -> float:
        return self.weights + self.gradients + self.optimizer + self.activations + self.kv_cache + self.logits


@dataclass(frozen=True)
class TrainingState:
    """How learners hold the model; the keys of `learners` that its memory follows from."""

    num_learners: int
    engine: Literal["torch", "deepspeed"]
    zero_stage: int
    offload: str
    half: bool  # bfloat16
    frozen: bool = False  # adapters train, over weights that stay in the model's precision

    @property
    def stage(self) -> int:
        """`zero_stage`, at least 2 where the strategy makes it so: DeepSpeed in bfloat16."""
        return max(self.zero_stage, 2) if self.engine == "deepspeed" and self.half else self.zero_stage

    @property
    def number_bytes(self) -> int:
        """Bytes of a weight in the forward pass."""
        return 2 if self.half and (self.engine == "deepspeed" or self.frozen) else 4


def training_memory(shape: ModelShape, state: TrainingState) -> Memory:
    """Returns weights, gradients and optimizer of one rank.

    Torch holds 4 + 4 + 8 bytes a parameter in float32, and under autocast 2 more for the weights in bfloat16. DeepSpeed
    in bfloat16 holds 2 of weights, 2 + 4 of gradients, 4 of float32 weights and 8 of moments. The last 16 are split
    over the ranks from stage 1 on, the 2 of gradients from stage 2 on. In stage 3 the weights are too, beside the
    largest module, gathered, and the 2 of gradients are gone. These are the sums of DeepSpeed's own
    `estimate_zero2_model_states_mem_needs` and `estimate_zero3_...`, without its factor for buffers.

    Gradients and optimizer are those of what trains. Frozen weights have 4 or 2 bytes.
    """
    n, ranks, stage, number = shape.trained, state.num_learners, state.stage, state.number_bytes
    frozen = shape.parameters if shape.adapters else 0
    if state.engine == "torch":
        weights = number * frozen + (6 if state.half else 4) * n
        return Memory(weights=weights, gradients=4.0 * n, optimizer=8.0 * n)
    whole = (frozen + n) / ranks if stage == 3 else frozen + n
    gathered = 2 * number * shape.largest if stage == 3 else 0
    sharded = n / ranks if stage else n
    # in float32 a gradient is kept once; in bfloat16 beside a float32 one, in stage 3 only as that
    gradients = number * (sharded if stage >= 2 else n) if not state.half or stage < 3 else 0
    gradients += 4 * sharded if state.half else 0
    optimizer = (12 if state.half else 8) * sharded
    if state.offload == "none":
        return Memory(weights=number * whole + gathered, gradients=gradients, optimizer=optimizer)
    weights_here = 0 if state.offload == "optimizer_and_parameters" else number * whole
    host = (16 if state.half else 12) * sharded + (number * whole - weights_here)
    return Memory(weights=weights_here + gathered, host=host)


def checkpoint_size(shape: ModelShape, state: TrainingState) -> float:
    """Returns the bytes of one checkpoint of all ranks together: what trains, and AdamW's two moments.

    Torch writes 4 + 8 bytes a parameter. DeepSpeed writes its weights, and in stages 1 and 2 4 more of the optimizer's
    float32 weights; in stage 3 only those. tests/core/learners/test_learner_group.py compares with files.
    """
    weights = 4 if state.engine == "torch" or state.stage == 3 else state.number_bytes + (4 if state.stage else 0)
    return (weights + 8.0) * shape.trained


def layer_bytes(shape: ModelShape, width: int, state: TrainingState) -> float:
    """Returns the bytes a token that autograd keeps of one layer of a transformers model (Llama's kind).

    Of each norm its input, the normalised input and the output; queries, keys and values, the last two repeated for
    every head, and the output of attention; the four products of the gated MLP; a row of the mask, `width` numbers.
    Norms work in float32. tests/core/costs/test_memory.py counts them in real models.
    """
    number = 2 if state.half else 4
    norm = (
        12 if not state.half else (8 if state.number_bytes == 2 else 13)
    )  # autocast casts the output for each of five products
    norms = 2 * shape.hidden * norm
    if shape.norms_heads:
        norms += (shape.attention + shape.kv) * (8 if number == 4 else 6)
    rest = 4 * shape.attention + 4 * shape.intermediate + width
    if shape.expert_share < 1:  # the tokens gathered for each expert, and the experts' outputs before they are summed
        rest += 2 * shape.hidden * shape.experts_per_token
    return norms + rest * number


def activation_memory(
    shape: ModelShape, tokens: int, width: int, state: TrainingState, *, checkpointing: bool
) -> float:
    """Returns the most bytes of activations during the backward pass of a micro-batch.

    Without checkpointing all layers' are kept, with it the inputs of all layers and one layer's. The backward pass adds
    the gradients of one MLP's products and of its inputs.

    Args:
        tokens: padded tokens of the micro-batch.
        width: tokens of its longest sequence.
    """
    one = layer_bytes(shape, width, state) * tokens
    number = 2 if state.half else 4
    backward = (3 * shape.intermediate + 2 * shape.hidden) * number * tokens
    inputs = shape.layers * shape.hidden * state.number_bytes * tokens
    return (inputs + one if checkpointing else shape.layers * one) + backward


def loss_memory(shape: ModelShape, rows: int, state: TrainingState, device: str, *, with_entropy: bool) -> float:
    """Returns the bytes of the head's loss: a chunk of logits, the rows' states and gradients, the head's gradient.

    A frozen head has no gradient.
    """
    chunk = min(LOSS_CHUNK[device], rows * shape.vocabulary * 4 * (2 if with_entropy else 1))
    return chunk + rows * shape.hidden * (state.number_bytes + 4) + (0.0 if shape.adapters else 4.0 * shape.head)


def engine_memory(
    shape: ModelShape,
    *,
    number_bytes: int,
    tensor_parallel_size: int,
    kv_cache: int | Literal["auto"],
    logits: float,
    available: float,
) -> Memory:
    """Returns the memory of a vLLM engine on each of its cards; a KV cache of `auto` takes what is left.

    Args:
        available: bytes of the card that are the actor's.
        logits: bytes of the sampler's or scorer's logits.
    """
    weights = shape.parameters * number_bytes / tensor_parallel_size
    # a prefill's step: the products of one MLP, and queries, keys, values and residuals
    widest = 3 * shape.intermediate + 4 * shape.hidden
    activations = STEP_TOKENS * widest * number_bytes / tensor_parallel_size
    if kv_cache == "auto":
        kv_cache = int(max(0.0, CARD_SHARE * available - weights - logits - activations))
    return Memory(weights=weights, activations=activations, kv_cache=kv_cache, logits=logits)


def sequences_held(
    shape: ModelShape, kv_cache: float, tokens: int, *, number_bytes: int, tensor_parallel_size: int
) -> int:
    """Returns how many sequences of `tokens` tokens one engine holds, whose heads are split over its cards.

    Args:
        kv_cache: bytes on each card.
    """
    each = shape.kv_bytes(tokens, number_bytes)
    return int(kv_cache * tensor_parallel_size // each) if each else 0
