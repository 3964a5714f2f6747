"""The kinds of actors of a run: memory and seconds of an iteration, for any number of them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Protocol

from tgpo_ray.costs.cards import Cluster
from tgpo_ray.costs.lengths import response_lengths
from tgpo_ray.costs.memory import (
    CARD_SHARE,
    SCORING_CHUNK,
    Memory,
    TrainingState,
    activation_memory,
    engine_memory,
    loss_memory,
    sequences_held,
    training_memory,
)
from tgpo_ray.costs.shapes import ModelShape
from tgpo_ray.costs.work import exchanged_bytes, learner_work, offload_seconds, prompt_work, rollout_work, teacher_work

USEFUL_SHARE = 0.95  # of padded tokens, as the learners' layout reaches it (docs/performance.md)
BLOCK = {"cpu": 32, "gpu": 16}  # tokens of a block of vLLM's prefix cache


@dataclass(frozen=True)
class Batch:
    """What one iteration samples."""

    groups: int
    group_size: int
    prompt: float  # mean tokens
    response: float
    longest_response: int
    longest: int  # prompt and response
    updates: int

    @property
    def episodes(self) -> int:
        return self.groups * self.group_size


class Actor(Protocol):
    """One kind of actor."""

    @property
    def kind(self) -> str: ...
    @property
    def keys(self) -> str: ...  # the key that holds `count`
    @property
    def count(self) -> int: ...  # in the configuration
    @property
    def cards(self) -> float: ...  # of one actor

    def memory(self, count: int) -> Memory: ...
    def seconds(self, count: int) -> float: ...


@dataclass(frozen=True)
class Place:
    """What all kinds have in common. The fields are those of `Actor`, and what they work on."""

    kind: str
    keys: str
    count: int
    cards: float
    cluster: Cluster
    batch: Batch
    shape: ModelShape


@dataclass(frozen=True)
class Engines(Place):
    """What runners and scorers have in common: a vLLM engine, or plain transformers, over some cards."""

    number_bytes: int
    tensor_parallel_size: int
    kv_cache: Any  # bytes, `auto`, or None without a cache
    max_num_seqs: int

    @property
    def share(self) -> float:
        """The actor's part of each of its cards."""
        return self.cards / self.tensor_parallel_size

    @property
    def unshared(self) -> float:
        """Mean tokens of a prompt after its last whole block."""
        return min(self.batch.prompt, (BLOCK[self.cluster.card.device] + 1) / 2)

    def _memory(self, logits: float) -> Memory:
        memory = engine_memory(
            self.shape,
            number_bytes=self.number_bytes,
            tensor_parallel_size=self.tensor_parallel_size,
            kv_cache=self.kv_cache or 0,
            logits=logits,
            available=self.share * self.cluster.card.memory,
        )
        return memory

    def held(self, tokens: int) -> int:
        """Returns how many sequences of `tokens` tokens the KV cache of one engine holds."""
        cache = self.memory(self.count).kv_cache
        size = {"number_bytes": self.number_bytes, "tensor_parallel_size": self.tensor_parallel_size}
        return sequences_held(self.shape, cache, max(1, tokens), **size)

    def memory(self, count: int) -> Memory:
        return self._memory(SCORING_CHUNK[self.cluster.card.device])

    def _split_seconds(self, tokens: float) -> float:
        """Returns the seconds of the sums over tensor-parallel cards: two a layer, of `tokens` hidden states."""
        size = self.tensor_parallel_size
        if size == 1:
            return 0.0
        moved = 2 * self.shape.layers * tokens * self.shape.hidden * self.number_bytes * 2 * (size - 1) / size
        return moved / (self.cluster.link(size) * self.cluster.card.efficiency.link)


@dataclass(frozen=True)
class Runners(Engines):
    """`env_runners`."""

    takes_adapters: bool = False  # from the learners, in place of whole weights

    def memory(self, count: int) -> Memory:
        return self._memory(3.0 * self.max_num_seqs * self.shape.vocabulary * 4 / self.tensor_parallel_size)

    @cached_property
    def slots(self) -> int:
        """Sequences that one engine writes at a time: vLLM's limit, and what its KV cache holds at mean length."""
        return min(self.max_num_seqs, self.held(int(self.batch.prompt + self.batch.response / 2)))

    def seconds(self, count: int) -> float:
        batch, card = self.batch, self.cluster.card
        lengths = response_lengths(batch.episodes, batch.response, batch.longest_response)[::count]
        size: dict[str, Any] = {"prompt": int(batch.prompt), "number_bytes": self.number_bytes}
        work = rollout_work(self.shape, lengths, slots=max(1, self.slots), **size)
        group: dict[str, Any] = {
            "groups": batch.groups / count,
            "group_size": batch.group_size,
            "unshared": self.unshared,
        }
        read = prompt_work(self.shape, **group, **size)
        seconds = work.seconds(card, card.efficiency.rollout, self.cards)
        return seconds + read.seconds(card, card.efficiency.teacher, self.cards) + self._split_seconds(sum(lengths))


@dataclass(frozen=True)
class Scorers(Engines):
    """A pool of teachers, or the frozen reference."""

    share_of_groups: float = 1.0

    def seconds(self, count: int) -> float:
        batch, card = self.batch, self.cluster.card
        groups = self.share_of_groups * batch.groups / count
        size: dict[str, Any] = {"prompt": batch.prompt, "unshared": self.unshared, "response": batch.response}
        size["number_bytes"] = self.number_bytes
        work = teacher_work(self.shape, groups=groups, group_size=batch.group_size, **size)
        tokens = groups * (batch.prompt + batch.group_size * batch.response)
        return work.seconds(card, card.efficiency.teacher, self.cards) + self._split_seconds(tokens)


@dataclass(frozen=True)
class Learners(Place):
    """`learners`; a method with several groups of them has as many cards."""

    state: TrainingState
    token_budget: int
    checkpointing: bool
    extra_passes: float  # forward passes of all tokens beside the loss
    with_entropy: bool
    num_groups: int = 1
    lent: float = 0.0  # of a card, by an engine that sleeps while the learners work

    @property
    def share(self) -> float:
        """Part of a card that one rank may take while it works."""
        return min(1.0, self.cards / self.num_groups + self.lent)

    def rests_in(self, count: int) -> tuple[float, float]:
        """Returns the bytes on a card that stay between updates, and those that are there for them."""
        memory = self.memory(count)
        return memory.weights + memory.optimizer, min(1.0, self.cards / self.num_groups) * self.cluster.card.memory

    def memory(self, count: int) -> Memory:
        return self.memory_with(count, checkpointing=self.checkpointing)

    def memory_with(self, count: int, *, checkpointing: bool) -> Memory:
        """Returns the memory of one rank of `count`, with gradient checkpointing or without."""
        state = replace(self.state, num_learners=count)
        width = self.batch.longest
        activations = activation_memory(self.shape, self.token_budget, width, state, checkpointing=checkpointing)
        device = self.cluster.card.device
        logits = loss_memory(self.shape, self.token_budget, state, device, with_entropy=self.with_entropy)
        return replace(training_memory(self.shape, state), activations=activations, logits=logits)

    def seconds(self, count: int) -> float:
        batch, card, updates = self.batch, self.cluster.card, self.batch.updates
        state, sequences = replace(self.state, num_learners=count), batch.episodes / count
        padded = sequences * (batch.prompt + batch.response) / USEFUL_SHARE
        micro_batches = updates * math.ceil(padded / updates / self.token_budget)
        work = learner_work(
            self.shape,
            state,
            sequences=sequences,
            prompt=batch.prompt,
            response=batch.response,
            useful=USEFUL_SHARE,
            micro_batches=micro_batches,
            updates=updates,
            checkpointing=self.checkpointing,
            extra_passes=self.extra_passes,
        )
        link = self.cluster.link(count) * card.efficiency.link
        exchanged = exchanged_bytes(self.shape, state, micro_batches=micro_batches, updates=updates) / link
        ranks = min(count, self.cluster.cards_per_node)
        computed = work.seconds(card, card.efficiency.learner, self.cards / self.num_groups)
        # what the links move overlaps with the arithmetic; the optimizer in the host's memory does not
        return max(computed, exchanged) + offload_seconds(
            self.shape, state, card, updates=updates, ranks_per_node=ranks
        )


def fits(actor: Actor, count: int, cluster: Cluster) -> bool:
    """Returns whether each of `count` actors has room in its part of its cards."""
    memory, share = actor.memory(count), actor.cards
    if isinstance(actor, Engines | Learners):
        share = actor.share
    if isinstance(actor, Engines) and actor.kv_cache is not None and actor.held(actor.batch.longest) < 1:
        return False
    if isinstance(actor, Learners) and actor.lent:
        kept, room = actor.rests_in(count)
        if kept > CARD_SHARE * room + 1.0:
            return False
    return memory.on_card <= CARD_SHARE * min(1.0, share) * cluster.card.memory + 1.0
