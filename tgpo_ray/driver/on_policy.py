"""OnPolicyAlgorithm: sample, verify, score, hand over, update, sync. A method says only its advantages and its loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import numpy as np

from tgpo_ray.config import OnPolicyConfig
from tgpo_ray.driver.algorithm import Algorithm, Metrics
from tgpo_ray.driver.handover import Handover
from tgpo_ray.driver.verifier_failures import VerifierFailures
from tgpo_ray.env_runners import training_sampling
from tgpo_ray.episode import EpisodeInfo, SampledGroup
from tgpo_ray.kernels import TokenLoss
from tgpo_ray.reporting import rollout_metrics
from tgpo_ray.teachers import Scoring, ScoringRequest, TeacherGroup, build_reference, scoring_metrics

OnPolicyConfigT = TypeVar("OnPolicyConfigT", bound=OnPolicyConfig)
MAX_EMPTY_ITERATIONS = 3


class OnPolicyAlgorithm(Algorithm[OnPolicyConfigT]):
    """The loop of the algorithms that sample from the policy that they train.

    A subclass defines `advantages` and `loss`, and where it has scorers of its own `scoring_requests`.
    """

    reference: TeacherGroup | None  # the frozen reference, where the loss has a KL to it
    refused: Sequence[tuple[EpisodeInfo, ...]] = ()  # groups that dynamic sampling replaced: what the driver knows
    _num_empty_iterations = 0

    # ---- what a method is made of: override these

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        """Start the frozen reference where the loss has a KL to it, or take the ready one, `teachers["reference"]`."""
        self.reference = None
        if self.config.uses_reference:
            ready = (teachers or {}).get("reference")
            self.reference = ready or self._own(build_reference(self.config))

    def begin_iteration(self) -> None:
        """Called before anything is sampled: a method starts or releases what this iteration needs. Nothing here."""

    def keep(self, group: SampledGroup) -> bool:
        """Whether dynamic sampling trains on this group: not where all rewards are equal, so that nothing is learned.

        DAPO (2503.14476), section 3.2. The environment's own rewards count, before any shaping.
        """
        return len(set(group.rewards)) > 1

    def complete(self, group: SampledGroup) -> SampledGroup:
        """The group as it is scored and trained on, with what a method adds to it. Unchanged here."""
        return group

    def scoring_requests(self, group: SampledGroup) -> list[ScoringRequest]:
        """Which pools score this group: the reference here, where there is one."""
        return [] if self.reference is None else [ScoringRequest("reference", self.reference, {"logprob"})]

    def scorers(self) -> list[TeacherGroup]:
        """Every pool that may score a group."""
        return [] if self.reference is None else [self.reference]

    def score_batch(self, groups: list[SampledGroup]) -> list[SampledGroup]:
        """The iteration's groups with scores that need all of them; its method says `needs_batch`. Unchanged here."""
        return groups

    def advantages(self, groups: Sequence[SampledGroup]) -> list[np.ndarray]:
        """One (G,) array of advantages a group."""
        raise NotImplementedError(f"{type(self).__name__} must define advantages(groups) -> list of (G,) arrays")

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        """The loss of these groups: all of an update's where the method says `needs_batch`, else some of them."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(groups) -> TokenLoss")

    @property
    def needs_batch(self) -> bool:
        """Whether `loss` or `score_batch` must know the whole batch: nothing is handed over while sampling goes on."""
        return False

    def denominator(self, groups: Sequence[SampledGroup]) -> float:
        """What the summed loss of an update is divided by: Z, the policy's tokens in it."""
        return float(sum(group.num_policy_tokens for group in groups))

    def check_metrics(self, metrics: Metrics) -> Metrics:
        """The iteration's metrics with what the method adds; here it may refuse to go on. Unchanged here."""
        return metrics

    # ---- one iteration

    def training_step(self) -> Metrics:
        """Sample, verify, score, hand over, update, sync; each group goes on as soon as it is there."""
        self.begin_iteration()
        failures, handover = VerifierFailures.of(self.config), self.handover()
        with Scoring() as scoring:
            for group in self.times.waiting("sample", self.sample()):
                verified = failures.passed(group)
                if verified is not None:
                    completed = self.complete(verified)
                    scoring.submit(completed, self.scoring_requests(completed))
                for scored in scoring.finished():
                    handover.take(scored)
            failures.check()
            for scored in self.times.waiting("guidance", scoring.drain()):
                handover.take(scored)
        self.sampled = self.batch_of(handover)
        self._check_collapse()
        updates = self.update_all(handover)
        with self.times.stage("sync"):
            self.weights.sync()
        return self.check_metrics(self.measured(failures.infos, updates))

    @property
    def rollouts_per_group(self) -> int:
        """Episodes that the policy writes for each problem: all of the group's."""
        return self.config.training.group_size

    def sample(self) -> Iterator[SampledGroup]:
        """The iteration's groups, as they finish; with dynamic sampling those that `keep` approves of."""
        training = self.config.training
        refused: list[tuple[EpisodeInfo, ...]] = []
        self.refused = refused

        def keep_or_note(group: SampledGroup) -> bool:
            kept = self.keep(group)
            if not kept:
                refused.append(group.infos)
            return kept

        return self.env_runners.sample(
            self.cursor.next(training.groups_per_iteration),
            self.rollouts_per_group,
            training_sampling(self.config),
            self.sampling_seed(),
            keep=keep_or_note if training.dynamic_sampling else None,
            more=self.cursor.next,
            max_rounds=training.max_sampling_rounds,
        )

    def handover(self) -> Handover:
        """The iteration's way to the learners.

        With one update, they work on what has arrived while the rest is being written. With several, who is in which
        update must not depend on who finished first: groups wait for each other.
        """
        if self.config.training.updates_per_iteration > 1 or self.needs_batch:
            return Handover(self.accumulate, enough_tokens=None)
        return Handover(self.accumulate, self.learners.token_budget * self.learners.placement.num_learners)

    def accumulate(self, groups: Sequence[SampledGroup]) -> None:
        """Hand groups to the learners, which add up their gradients."""
        with self.times.stage("update"):
            self.learners.accumulate(groups, self.advantages(groups), self.loss(groups))

    def batch_of(self, handover: Handover) -> list[SampledGroup]:
        """All groups, in the order in which they are trained on."""
        if handover.streams:
            return handover.groups
        with self.times.stage("guidance"):
            return self.score_batch(sorted(handover.groups, key=lambda group: group.ordinal))

    def update_all(self, handover: Handover) -> list[Metrics]:
        """What each of the iteration's updates measured."""
        if handover.streams:
            handover.flush()
            return [self.update(self.sampled, 0)]
        batches = self.split(self.sampled)
        if self.config.training.old_logprobs == "learner":
            for batch in batches[1:]:  # the first update's ratio is one: no pass for it
                self.learners.remember_logprobs(batch)  # dealt over the ranks as its update will be
        updates: list[Metrics] = []
        for number, batch in enumerate(batches):
            self.accumulate(batch)
            updates.append(self.update(batch, number))
        self.learners.forget_logprobs()
        return updates

    def update(self, groups: Sequence[SampledGroup], number: int) -> Metrics:
        """One optimizer step on groups that were handed over; `number` counts the iteration's updates from 0."""
        with self.times.stage("update"):
            return self.learners.step(self.denominator(groups), self.learning_rate(number))

    def split(self, groups: list[SampledGroup]) -> list[list[SampledGroup]]:
        """The groups of each update."""
        size = self.config.training.groups_per_update
        return [groups[start : start + size] for start in range(0, len(groups), size)]

    def learning_rate(self, update: int) -> float:
        """The rate of this iteration's update number `update`: constant after a linear warm-up."""
        training = self.config.training
        step = self.iteration * training.updates_per_iteration + update
        return training.lr * min(1.0, (step + 1) / max(1, training.lr_warmup_steps))

    def measured(self, infos: Sequence[tuple[EpisodeInfo, ...]], updates: Sequence[Metrics]) -> Metrics:
        """The iteration's metrics: of all episodes that were sampled, of the scorers, and the mean over the updates."""
        infos = [*infos, *self.refused]
        metrics = rollout_metrics(infos, weights_version=self.weights.version - 1)
        if self.config.training.dynamic_sampling:
            metrics["sampling/refused_groups"] = len(self.refused) / len(infos)
        metrics |= scoring_metrics(dict.fromkeys(self.scorers()))
        metrics |= _mean(updates) | {"optimizer/lr": self.learning_rate(0)}
        return metrics | {"tokens/trained": float(sum(group.num_policy_tokens for group in self.sampled))}

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
        self._num_empty_iterations = self._num_empty_iterations + 1 if longest <= 1 else 0
        if self._num_empty_iterations >= MAX_EMPTY_ITERATIONS:
            raise RuntimeError(
                f"every response of the last {MAX_EMPTY_ITERATIONS} iterations is empty: the policy writes its "
                "end-of-sequence token first. Start from a model that answers this prompt (`tgpo-ray env show` prints "
                "some), or lower training.lr if it did at first; the last checkpoint is intact"
            )


def _mean(updates: Sequence[Metrics]) -> Metrics:
    """Mean over an iteration's updates of every metric that any of them has."""
    names = {name for update in updates for name in update}
    return {name: float(np.mean([update[name] for update in updates if name in update])) for name in sorted(names)}
