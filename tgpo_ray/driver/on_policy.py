"""OnPolicyAlgorithm: sample, score, update, sync. GRPO and its relatives say only their advantages and their loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tgpo_ray.driver.algorithm import Algorithm, Metrics
from tgpo_ray.driver.verifier_failures import VerifierFailures
from tgpo_ray.env_runners import training_sampling
from tgpo_ray.episode import EpisodeInfo, SampledGroup
from tgpo_ray.kernels import TokenLoss
from tgpo_ray.reporting import rollout_metrics
from tgpo_ray.teachers import TeacherGroup, annotate, build_reference, scoring_metrics

MAX_EMPTY_ITERATIONS = 3


class OnPolicyAlgorithm(Algorithm):
    """The loop of the algorithms that sample from the policy that they train.

    A subclass defines `advantages` and `loss`, and where it has a teacher `annotate`.
    """

    sampled: list[SampledGroup]  # the last iteration's groups, as they were trained on
    refused: list[tuple[EpisodeInfo, ...]]  # and of those that dynamic sampling replaced, what the driver knows

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.sampled, self.refused = [], []
        self._empty_iterations = 0
        super().__init__(*args, **kwargs)

    # ---- what a method is made of: override these

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        """Start the frozen reference where the loss has a KL to it, or take the ready one, `teachers["reference"]`."""
        if self.config.uses_reference:
            ready = (teachers or {}).get("reference")
            self.reference = ready or self._own(build_reference(self.config))

    def annotate(self, groups: Iterator[SampledGroup]) -> Iterator[SampledGroup]:
        """Have scorers add their guidance to each group as it passes: the reference here, where there is one."""
        reference = self.reference
        return groups if reference is None else annotate(groups, lambda group: reference, {"logprob"}, "reference")

    def keep(self, group: SampledGroup) -> bool:
        """Whether dynamic sampling trains on this group: not where all rewards are equal, so that nothing is learned.

        DAPO (2503.14476), section 3.2. The environment's own rewards count, before any shaping.
        """
        return len(set(group.rewards)) > 1

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
        infos = failures.infos + self.refused  # of all that was sampled
        metrics = rollout_metrics(infos, weights_version=self.weights.version - 1)
        if self.config.training.dynamic_sampling:
            metrics["sampling/refused_groups"] = len(self.refused) / len(infos)
        metrics |= scoring_metrics(self.scorers())
        return self.check_metrics(metrics | _mean(updates) | {"optimizer/lr": self.learning_rate(0)})

    def scorers(self) -> list[TeacherGroup]:
        """Every pool that scores this method's groups: its teachers, and the reference where there is one."""
        pools = [*self.teachers.values(), self.reference]
        return [pool for pool in dict.fromkeys(pools) if pool is not None]

    def update(self, groups: Sequence[SampledGroup], number: int) -> Metrics:
        """One optimizer step on groups that were handed over; `number` counts the iteration's updates from 0."""
        with self.timer("update"):
            return self.learners.step(self.denominator(groups), self.learning_rate(number))

    @property
    def rollouts_per_group(self) -> int:
        """Episodes that the policy writes for each problem: all of the group's."""
        return self.config.training.group_size

    def sample(self) -> Iterator[SampledGroup]:
        """The iteration's groups, as they finish; with dynamic sampling those that `keep` approves of."""
        training = self.config.training
        tasks = self.cursor.next(training.groups_per_iteration)
        arguments = (tasks, self.rollouts_per_group, training_sampling(self.config), self.sampling_seed())
        self.refused = []
        if not training.dynamic_sampling:
            return self.env_runners.sample(*arguments)
        rounds = training.max_sampling_rounds
        return self.env_runners.sample(*arguments, keep=self._keep_or_note, more=self.cursor.next, max_rounds=rounds)

    def _keep_or_note(self, group: SampledGroup) -> bool:
        kept = self.keep(group)
        if not kept:
            self.refused.append(group.infos)
        return kept

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
        """Stop a run that has nothing to learn from: no group at all, or responses without a token."""
        if not self.sampled and self.refused:
            training = self.config.training
            raise RuntimeError(
                f"dynamic sampling refused all {len(self.refused)} groups of {training.max_sampling_rounds} rounds: "
                "the problems are too hard or too easy for this policy. Mix in others, raise training.group_size or "
                "training.max_sampling_rounds, or write training.dynamic_sampling: false"
            )
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
