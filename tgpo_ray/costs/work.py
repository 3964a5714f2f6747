"""FLOPs, bytes and calls of each stage of an iteration, and their seconds on a card."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

from tgpo_ray.costs.cards import Card, Rates
from tgpo_ray.costs.memory import STEP_TOKENS, TrainingState, layer_bytes
from tgpo_ray.costs.shapes import ModelShape

LOGIT_PASSES = 8  # reads and writes of (sequences, V) float32 logits by a sampler: scaling, softmax, noise, argmax
OPTIMIZER_BYTES = 28  # read weight, gradient and two moments in float32, write weight and moments
WEIGHT_COPIES = 2  # of a backward pass under ZeRO-3: gathered for forward and for backward


@dataclass(frozen=True)
class Work:
    """What a stage does on one actor's cards together."""

    flops: float = 0.0
    bytes: float = 0.0  # weights, KV cache, logits, optimizer
    activation_bytes: float = 0.0  # that the layers' elementwise operations write or read once
    calls: float = 0.0
    items: float = 0.0

    def __add__(self, other: Work) -> Work:
        return Work(*(a + b for a, b in zip(self.parts, other.parts, strict=True)))

    @property
    def parts(self) -> tuple[float, float, float, float, float]:
        return self.flops, self.bytes, self.activation_bytes, self.calls, self.items

    def terms(self, card: Card) -> tuple[float, float, float, float, float]:
        """Returns what the rates of a stage multiply: seconds at peak of the first three, then calls and items."""
        peak = self.flops / card.flops, self.bytes / card.bandwidth, self.activation_bytes / card.bandwidth
        return *peak, self.calls, self.items

    def seconds(self, card: Card, rates: Rates, num_cards: float = 1.0) -> float:
        """Returns the seconds on `num_cards` cards that share the arithmetic and the memory traffic equally."""
        flops, traffic, activations, calls, items = self.terms(card)
        shared = flops / rates.compute + traffic / rates.bandwidth + rates.elementwise * activations
        return shared / num_cards + rates.call_s * calls + rates.item_s * items


def attention_flops(shape: ModelShape, pairs: float) -> float:
    """Returns 4 * heads * head size * layers for each pair of a query and a key: scores and weighted values."""
    return 4.0 * shape.layers * shape.attention * pairs


def prefill_work(shape: ModelShape, tokens: float, pairs: float, number_bytes: int) -> Work:
    """Returns one forward pass over `tokens` tokens without the head: 2 n FLOPs a token, and attention."""
    state = TrainingState(1, "deepspeed", 0, "none", half=number_bytes == 2)
    return Work(
        flops=2.0 * shape.active * tokens + attention_flops(shape, pairs),
        activation_bytes=shape.layers * layer_bytes(shape, 0, state) * tokens,
    )


def unshared_tokens(prompt: int, block: int) -> int:
    """Returns the tokens of a prompt that each member of a group reads anew: the prefix cache shares whole blocks.

    The last token is always read, because the first response token follows from it.
    """
    return prompt - block * ((prompt - 1) // block)


def prompt_work(
    shape: ModelShape, *, groups: float, group_size: int, prompt: float, unshared: float, number_bytes: int
) -> Work:
    """Returns the work of reading prompts before sampling, each once, and what members of a group read anew.

    It goes at the rates of scoring.
    """
    tokens = groups * (prompt + (group_size - 1) * unshared)
    return prefill_work(shape, tokens, tokens * prompt, number_bytes)


def rollout_work(shape: ModelShape, lengths: Sequence[int], *, prompt: int, slots: int, number_bytes: int) -> Work:
    """Returns the work of an engine that writes responses of these lengths, at most `slots` at a time.

    A decoding step over b sequences costs b (2 n + 2 H V) FLOPs and attention, and reads the weights, the keys and
    values of the b sequences, and their logits several times. Between two endings b is constant.
    """
    waiting, running, step = list(lengths)[::-1], [], 0  # running: (step of its end, length)
    cached = 0.0  # tokens in the cache
    steps = tokens_read = tokens = weights = 0.0
    while waiting or running:
        while waiting and len(running) < max(1, slots):
            length = waiting.pop()
            heapq.heappush(running, (step + length, length))
            cached += prompt
        count, end = len(running), running[0][0]
        span = end - step
        steps, tokens = steps + span, tokens + count * span
        tokens_read += span * cached + count * span * (span + 1) / 2
        weights += span * shape.weights_read(count)
        cached, step = cached + count * span, end
        while running and running[0][0] == end:
            cached -= prompt + heapq.heappop(running)[1]
    kv = shape.kv_bytes(1, number_bytes)
    return Work(
        flops=tokens * 2.0 * (shape.active + shape.head) + attention_flops(shape, tokens_read),
        bytes=weights * number_bytes + tokens_read * kv + tokens * shape.vocabulary * 4.0 * LOGIT_PASSES,
        calls=steps,
        items=tokens,
    )


def teacher_work(
    shape: ModelShape,
    *,
    groups: float,
    group_size: int,
    prompt: float,
    unshared: float,
    response: float,
    number_bytes: int,
) -> Work:
    """Returns one teacher's work: prompts once a group, and of each member what it reads anew, and all responses.

    2 n_t (N + prompts) + 2 H_t V_t N, and attention                     calls: engine steps, items: sequences

    """
    tokens = groups * group_size * response
    anew = (group_size - 1) * unshared
    read = tokens + groups * (prompt + anew)
    pairs = groups * ((prompt + anew) * prompt + group_size * response * (prompt + response))
    steps = groups * math.ceil((prompt + group_size * response) / STEP_TOKENS)
    head = Work(
        flops=2.0 * shape.head * tokens,
        bytes=steps * shape.weights_read(read / max(steps, 1)) * number_bytes + tokens * shape.vocabulary * 4.0,
        calls=steps,
        items=groups * group_size,
    )
    return head + prefill_work(shape, read, pairs, number_bytes)


def learner_work(
    shape: ModelShape,
    state: TrainingState,
    *,
    sequences: float,
    prompt: float,
    response: float,
    useful: float,
    micro_batches: float,
    updates: int,
    checkpointing: bool,
    extra_passes: float,
) -> Work:
    """Returns one rank's work in an iteration.

        6 n and attention for each token in the padded layout, 2 n more with checkpointing and for each extra pass
        6 H V for each response token, 2 H V more for each extra pass             calls: layers of all micro-batches

    Frozen weights and a frozen head have no gradients of their own: 4 n and 4 H V, and 6 for the adapters.

    Args:
        sequences: this rank's.
        useful: share of the padded tokens that are tokens.
        extra_passes: forward passes beside the loss: for old log-probs, and for those of the model below adapters.
    """
    width = prompt + response
    tokens = sequences * width / useful
    least = 2 if shape.adapters else 3  # of 2 n; a backward pass is two, with frozen weights one
    passes = least + checkpointing + extra_passes
    trunk = prefill_work(shape, tokens, tokens * width, 2 if state.half else 4)
    head = 2.0 * shape.head * sequences * response * (least + extra_passes)
    logits = sequences * response * shape.vocabulary * 4.0
    own = shape.trained / (state.num_learners if state.stage else 1)
    optimizer = 0.0 if state.offload != "none" else OPTIMIZER_BYTES * own * updates
    return Work(
        flops=passes * trunk.flops + head + 6.0 * shape.adapters * tokens,
        bytes=optimizer,
        activation_bytes=passes * trunk.activation_bytes + (3 + extra_passes) * logits,
        calls=micro_batches * shape.layers * (passes / 3),
    )


def exchanged_bytes(shape: ModelShape, state: TrainingState, *, micro_batches: float, updates: int) -> float:
    """Returns the bytes that one rank sends to the others in an iteration.

    A ring moves (R - 1) / R of what is gathered or reduced. ZeRO-3 gathers the weights twice a micro-batch and reduces
    the gradients in each; stages 0 to 2 sum the gradients once an update and stage 1 and 2 gather the new weights.
    """
    ranks, n = state.num_learners, shape.trained
    if ranks == 1:
        return 0.0
    ring, number = (ranks - 1) / ranks, state.number_bytes
    if state.stage == 3:
        held = shape.parameters + shape.adapters
        return ring * number * (WEIGHT_COPIES * held + n) * micro_batches
    return ring * (2 * number * n) * updates


def offload_seconds(shape: ModelShape, state: TrainingState, card: Card, *, updates: int, ranks_per_node: int) -> float:
    """Returns the seconds of an optimizer in the host's memory: gradients down, weights up, AdamW at its bandwidth.

    The node's memory bandwidth is shared by its ranks. It is taken as that of the links, which a host saturates.
    """
    if state.offload == "none":
        return 0.0
    own = shape.trained / state.num_learners
    moved = 2 * state.number_bytes * own / card.host_link
    return updates * (moved + OPTIMIZER_BYTES * own * ranks_per_node / HOST_BANDWIDTH)


HOST_BANDWIDTH = 300e9  # bytes/s: eight channels of DDR5-4800 move 307 GB/s
