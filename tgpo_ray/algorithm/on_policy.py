"""OnPolicyAlgorithm: sample, score, update, sync. GRPO and its relatives say only their advantages and their loss."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tgpo_ray import building
from tgpo_ray.algorithm.base import Algorithm, Metrics
from tgpo_ray.algorithm.verifier_failures import VerifierFailures
from tgpo_ray.episode import SampledGroup
from tgpo_ray.kernels import TokenLoss
from tgpo_ray.metrics import rollout_metrics

MAX_EMPTY_ITERATIONS = 3


class OnPolicyAlgorithm(Algorithm):
    """The loop of the algorithms that sample from the policy that they train.

    A subclass defines `advantages` and `loss`, and where it has a teacher `annotate`.
    """

    sampled: list[SampledGroup]  # the last iteration's groups, as they were trained on

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sampled = []
        self._empty_iterations = 0
        super().__init__(*args, **kwargs)

    # ---- what a method is made of: override these

    def annotate(self, groups: Iterator[SampledGroup]) -> Iterator[SampledGroup]:
        """Have scorers add their guidance to each group as it passes. None here."""
        return groups

    def advantages(self, groups: Sequence[SampledGroup]) -> list[np.ndarray]:
        """One (G,) array of advantages a group."""
        raise NotImplementedError(f"{type(self).__name__} must define advantages(groups) -> list of (G,) arrays")

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        """The loss of these groups: all of an update's where `loss_needs_batch` says so, else some of them."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(groups) -> TokenLoss")

    @property
    def loss_needs_batch(self) -> bool:
        """Whether the loss must know the whole batch, so that nothing can be accumulated while sampling goes on."""
        return False

    def denominator(self, groups: Sequence[SampledGroup]) -> float:
        """What the summed loss of an update is divided by: Z, the policy's tokens in it."""
        return float(sum(group.num_policy_tokens for group in groups))

    def check_metrics(self, metrics: Metrics) -> Metrics:
        """The iteration's metrics with what the method adds; here it may refuse to go on. Unchanged here."""
        return metrics

    # ---- one iteration

    def training_step(self) -> Metrics:
        """Sample, score, update and sync; each group flows on as soon as it is there, strictly on-policy."""
        failures = VerifierFailures.of(self.config)
        groups = self.annotate(failures.passed(self.sample()))
        updates = [self.update(batch, number) for number, batch in enumerate(self.accumulated(groups))]
        with self.timer("sync"):
            self.weights.sync()
        metrics = rollout_metrics(failures.infos, weights_version=self.weights.version - 1)
        return self.check_metrics(metrics | _mean(updates) | {"optimizer/lr": self.learning_rate(0)})

    def update(self, groups: Sequence[SampledGroup], number: int) -> Metrics:
        """One optimizer step on groups that were handed over; `number` counts the iteration's updates from 0."""
        with self.timer("update"):
            return self.learners.step(self.denominator(groups), self.learning_rate(number))

    def sample(self) -> Iterator[SampledGroup]:
        """The iteration's groups, as they finish."""
        training = self.config.training
        tasks = self.cursor.next(training.groups_per_iteration)
        return self.env_runners.sample(
            tasks, training.group_size, building.training_sampling(self.config), self.sampling_seed()
        )

    def accumulated(self, groups: Iterator[SampledGroup]) -> Iterator[list[SampledGroup]]:
        """Hand groups to the learners and yield each update's groups, once all of them are on their way.

        With one update an iteration, the learners work on what has arrived while the rest is being written. With
        several, who is in which update must not depend on who finished first: groups wait for each other.
        """
        streams = self.config.training.updates_per_iteration == 1 and not self.loss_needs_batch
        with self.timer("sample"):
            self.sampled = self._stream(groups) if streams else sorted(groups, key=lambda group: group.ordinal)
        self._check_collapse()
        if streams:
            yield self.sampled
            return
        batches = self._split(self.sampled)
        if self.config.training.old_logprobs == "learner":
            for batch in batches[1:]:  # the first update's ratio is one: no pass for it
                self.learners.remember_logprobs(batch)  # dealt over the ranks as its update will be
        for batch in batches:
            self.learners.accumulate(batch, self.advantages(batch), self.loss(batch))
            yield batch
        self.learners.forget_logprobs()

    def _stream(self, groups: Iterator[SampledGroup]) -> list[SampledGroup]:
        """Accumulate groups as they arrive, a micro-batch for each rank at a time; returns all of them."""
        enough = self.learners.token_budget * self.learners.placement.num_learners
        seen: list[SampledGroup] = []
        waiting: list[SampledGroup] = []
        for group in groups:
            seen.append(group)
            waiting.append(group)
            if sum(_padded_tokens(other) for other in waiting) >= enough:
                self.learners.accumulate(waiting, self.advantages(waiting), self.loss(waiting))
                waiting = []
        if waiting:
            self.learners.accumulate(waiting, self.advantages(waiting), self.loss(waiting))
        return seen

    def _split(self, groups: list[SampledGroup]) -> list[list[SampledGroup]]:
        size = self.config.training.groups_per_update
        return [groups[start : start + size] for start in range(0, len(groups), size)]

    def learning_rate(self, update: int) -> float:
        """The rate of this iteration's update number `update`: constant after a linear warm-up."""
        training = self.config.training
        step = self.iteration * training.updates_per_iteration + update
        return training.lr * min(1.0, (step + 1) / max(1, training.lr_warmup_steps))

    def _check_collapse(self) -> None:
        """Stop a run whose policy has died: nothing can be learned from responses without a token."""
        longest = max(info.num_policy_tokens for group in self.sampled for info in group.infos)
        self._empty_iterations = self._empty_iterations + 1 if longest <= 1 else 0
        if self._empty_iterations >= MAX_EMPTY_ITERATIONS:
            raise RuntimeError(
                f"every response of the last {MAX_EMPTY_ITERATIONS} iterations is empty: the policy writes its "
                "end-of-sequence token first. Start from a model that answers this prompt (`tgpo-ray env show` prints "
                "some), or lower training.lr if it did at first; the last checkpoint is intact"
            )


def _padded_tokens(group: SampledGroup) -> int:
    return len(group.infos) * max(info.num_tokens for info in group.infos)


def _mean(updates: Sequence[Metrics]) -> Metrics:
    """Mean over an iteration's updates of every metric that any of them has."""
    names = {name for update in updates for name in update}
    return {name: float(np.mean([update[name] for update in updates if name in update])) for name in sorted(names)}
