"""OnPolicyAlgorithm, the loop of sample, verify, score, hand over, update and sync."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from tgpo_ray.config import OnPolicyConfig
from tgpo_ray.driver.algorithm import Algorithm, Metrics
from tgpo_ray.driver.handover import Handover
from tgpo_ray.driver.rollouts import Batches, OnPolicyRollouts, Rollouts, RolloutSource, Take
from tgpo_ray.driver.rollouts_ahead import RolloutsAhead
from tgpo_ray.driver.sampler_watch import SamplerWatch
from tgpo_ray.driver.stage_times import StageTimes
from tgpo_ray.driver.token_forces import Learned
from tgpo_ray.driver.update_means import update_means
from tgpo_ray.driver.verifier_failures import VerifierFailures
from tgpo_ray.driver.waits import Waits
from tgpo_ray.env_runners import EnvRunnerGroup, training_sampling
from tgpo_ray.episode import EpisodeInfo, SampledGroup
from tgpo_ray.kernels import TokenLoss
from tgpo_ray.reporting import rollout_metrics
from tgpo_ray.teachers import GroupRequest, Scoring, TeacherGroup, build_reference

OnPolicyConfigT = TypeVar("OnPolicyConfigT", bound=OnPolicyConfig)
MAX_EMPTY_ITERATIONS = 3


class OnPolicyAlgorithm(Algorithm[OnPolicyConfigT]):
    """The loop of the algorithms that sample from the policy that they train.

    A subclass defines `advantages` and `loss`. With scorers of its own it also defines `scoring_requests`.
    """

    reference: TeacherGroup | None  # the frozen reference, where the loss has a KL to it
    source: RolloutSource
    batches: Batches  # the tasks that are not trained on yet
    watch: SamplerWatch
    sampling_iteration = 0  # the one that is being sampled; above `iteration` where runners work ahead
    refused: Sequence[tuple[EpisodeInfo, ...]] = ()  # groups of `sampling_iteration` that were replaced
    learned: dict[int, Learned]  # by ordinal, what the learners got with the groups of `sampled`
    _num_empty_iterations = 0

    # ---- the parts of a method: override these

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        """Starts the frozen reference where the loss has a KL to it, or takes `teachers["reference"]`."""
        self.reference = None
        if self.config.starts_reference:
            self.reference = (teachers or {}).get("reference") or self._own(build_reference(self.config))

    def begin_iteration(self) -> None:
        """Starts or releases the actors of this iteration, before sampling. Does nothing by default."""

    def keep(self, group: SampledGroup) -> bool:
        """Whether dynamic sampling trains on this group. It refuses groups of equal rewards, which teach nothing.

        DAPO (2503.14476), section 3.2. It compares the environment's own rewards, before any shaping.
        """
        return len(set(group.rewards)) > 1

    def complete(self, group: SampledGroup) -> SampledGroup:
        """The group with the episodes that a method adds before scoring. Unchanged by default."""
        return group

    def scoring_requests(self, group: SampledGroup) -> list[GroupRequest]:
        """The requests to the pools that score this group, by default to the reference, where there is one."""
        return [] if self.reference is None else [GroupRequest("reference", self.reference, {"logprob"})]

    def scorers(self) -> list[TeacherGroup]:
        """Every pool that may score a group."""
        return [] if self.reference is None else [self.reference]

    def score_batch(self, groups: list[SampledGroup]) -> list[SampledGroup]:
        """The groups with scores that need the whole batch (see `needs_batch`). Unchanged by default."""
        return groups

    def advantages(self, groups: Sequence[SampledGroup]) -> list[np.ndarray]:
        """A (G,) array of advantages for each group."""
        raise NotImplementedError(f"{type(self).__name__} must define advantages(groups) -> list of (G,) arrays")

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        """The loss of these groups, which are all of an update's with `needs_batch`, else some of them."""
        raise NotImplementedError(f"{type(self).__name__} must define loss(groups) -> TokenLoss")

    @property
    def needs_batch(self) -> bool:
        """Whether `loss` or `score_batch` needs the whole batch. Groups then wait until sampling ends."""
        return False

    def denominator(self, groups: Sequence[SampledGroup]) -> float:
        """Z, the divisor of an update's summed loss, by default the number of the policy's tokens in it."""
        return float(sum(group.num_policy_tokens for group in groups))

    def check_metrics(self, metrics: Metrics) -> Metrics:
        """The metrics with those that the method adds. It may raise to end the run. Unchanged by default."""
        return metrics

    # ---- the order of sampling and learning

    def _connect(self, env_runners: EnvRunnerGroup) -> None:
        super()._connect(env_runners)
        training = self.config.training
        self.watch = SamplerWatch(self, ahead=training.max_staleness > 0)
        self.batches = Batches(self.cursor, training.groups_per_iteration)
        in_flight = self.config.env_runners.weight_update == "in_flight"
        if training.max_staleness == 0:
            self.source = OnPolicyRollouts(self)
        else:
            self.source = RolloutsAhead(self, training.max_staleness, self.num_iterations, in_flight=in_flight)

    def before_evaluation(self) -> None:
        self.source.rest()

    def drop_rollouts(self) -> None:
        if self.has_runners:
            self.source.drop()

    def cursor_state(self) -> dict[str, Any] | None:
        return self.batches.state_dict() if self.has_runners else None

    def load_cursor(self, state: dict[str, Any]) -> None:
        self.batches.load_state_dict(state)

    # ---- one iteration

    def training_step(self) -> Metrics:
        """The metrics of one iteration. Each group moves to the next stage as soon as it is ready."""
        watched = self._watched_ahead()
        waits, handover, self.learned = Waits(self), self.handover(), {}
        rollouts = self.source.next(self.iteration, handover.take, self.times)
        version = self.weights.version
        self.sampled = self.batch_of(handover)
        self._check_collapse(rollouts.refused)
        watched |= self.watch.of_groups(self.iteration, self.sampled)
        updates = self.update_all(handover)
        self.batches.forget(self.iteration)
        with self.times.stage("sync"):
            self.source.publish()
        return self.check_metrics(self.measured(rollouts, updates, version) | watched | waits.metrics())

    def _watched_ahead(self) -> Metrics:
        """The metrics of a comparison of learner and sampler before this iteration, where it needs idle runners."""
        if not self.watch.needs_rest(self.iteration):
            return {}
        self.source.rest()
        return self.watch.of_probe()

    def roll_out(self, iteration: int, take: Take, times: StageTimes, sampled: Callable[[], None]) -> Rollouts:
        """Samples, verifies, completes and scores the groups of an iteration. `take` gets each when it is scored.

        It calls `sampled` after the last group is sampled: with `training.max_staleness` the next iteration then begins
        in another thread, while this one is still scored and earlier ones are learned.
        """
        self.sampling_iteration, self.refused = iteration, ()
        self.begin_iteration()
        rollouts, failures = Rollouts(), VerifierFailures.of(self.config)
        overlong_before = self.env_runners.num_overlong
        with Scoring() as scoring:
            for group in times.waiting("sample", self.sample()):
                if (verified := failures.passed(group)) is not None:
                    completed = self.complete(verified)
                    scoring.submit(completed, self.scoring_requests(completed))
                for scored in scoring.finished():
                    take(scored)
            failures.check()  # raises before the wait for the slowest scorer
            rollouts.infos, rollouts.refused = failures.infos, self.refused
            rollouts.num_overlong = self.env_runners.num_overlong - overlong_before
            sampled()
            for scored in times.waiting("guidance", scoring.drain()):
                take(scored)
        rollouts.metrics = scoring.counts.metrics()
        return rollouts

    @property
    def rollouts_per_group(self) -> int:
        """Episodes that the policy writes for each problem, by default the whole group."""
        return self.config.training.group_size

    def sample(self) -> Iterator[SampledGroup]:
        """The groups of `sampling_iteration` as they finish, with dynamic sampling only those that `keep` accepts."""
        training, iteration = self.config.training, self.sampling_iteration
        shows = training.max_staleness == 0 and self.shows_tokens(iteration)  # ahead, all sessions sample alike
        refused: list[tuple[EpisodeInfo, ...]] = []
        self.refused = refused

        def keep_or_note(group: SampledGroup) -> bool:
            is_accepted = self.keep(group)
            if not is_accepted:
                refused.append(group.infos)
            return is_accepted

        return self.source.sample(
            self.batches.tasks(iteration),
            self.rollouts_per_group,
            training_sampling(self.config, logprobs=shows or self.watch.needs_logprobs(iteration)),
            self.sampling_seed(iteration),
            keep=keep_or_note if training.dynamic_sampling else None,
            more=self.batches.more,
            max_rounds=training.max_sampling_rounds,
        )

    def shows_tokens(self, iteration: int) -> bool:
        """Whether episodes of this iteration, from 0 on, are kept token by token."""
        return self.config.reporting.shows_tokens(iteration + 1, self.num_iterations)

    def handover(self) -> Handover:
        """The iteration's path to the learners.

        With one update, they work on the groups that have arrived while the rest is being written. With several, the
        groups of an update must not depend on the order in which they finish, or engines sleep meanwhile: they wait.
        """
        training, sleep = self.config.training, self.config.env_runners.sleep
        if training.updates_per_iteration > 1 or training.max_staleness > 0 or self.needs_batch or sleep:
            return Handover(self.accumulate, enough_tokens=None)
        return Handover(self.accumulate, self.learners.token_budget * self.learners.placement.num_learners)

    def accumulate(self, groups: Sequence[SampledGroup]) -> None:
        """Hands groups to the learners, which add up their gradients."""
        with self.times.stage("update"):
            advantages, loss = self.advantages(groups), self.loss(groups)
            self.learned |= {it.ordinal: Learned(a, loss) for it, a in zip(groups, advantages, strict=True)}
            self.learners.accumulate(groups, advantages, loss)

    def batch_of(self, handover: Handover) -> list[SampledGroup]:
        """All groups in the order of training."""
        if handover.streams:
            return handover.groups
        with self.times.stage("guidance"):
            return self.score_batch(sorted(handover.groups, key=lambda group: group.ordinal))

    def update_all(self, handover: Handover) -> list[Metrics]:
        """The metrics of each of the iteration's updates."""
        if handover.streams:
            handover.flush()
            return [self.update(self.sampled, 0)]
        batches = self.split(self.sampled)
        if self.config.training.old_logprobs == "learner":
            for batch in batches[1:]:  # the first update's ratio is one, so it needs no pass
                self.learners.remember_logprobs(batch)  # on the ranks that will train on them
        updates: list[Metrics] = []
        for number, batch in enumerate(batches):
            self.accumulate(batch)
            updates.append(self.update(batch, number))
        self.learners.forget_logprobs()
        return updates

    def update(self, groups: Sequence[SampledGroup], number: int) -> Metrics:
        """The metrics of one optimizer step on the groups. `number` counts the iteration's updates from 0."""
        with self.times.stage("update"):
            return self.learners.step(self.denominator(groups), self.learning_rate(number))

    def split(self, groups: list[SampledGroup]) -> list[list[SampledGroup]]:
        """The groups of each update."""
        size = self.config.training.groups_per_update
        return [groups[start : start + size] for start in range(0, len(groups), size)]

    def learning_rate(self, update: int) -> float:
        """The rate of this iteration's update number `update`, constant after a linear warm-up."""
        training = self.config.training
        step = self.iteration * training.updates_per_iteration + update
        return training.lr * min(1.0, (step + 1) / max(1, training.lr_warmup_steps))

    def measured(self, rollouts: Rollouts, updates: Sequence[Metrics], version: int) -> Metrics:
        """The metrics of all sampled episodes and of the scorers, and the means over the updates.

        Args:
            version: of the weights that the first update changed.
        """
        infos = [*rollouts.infos, *rollouts.refused]
        metrics = rollout_metrics(infos, weights_version=version)
        if self.config.training.dynamic_sampling:
            metrics["sampling/refused_groups"] = len(rollouts.refused) / len(infos)
        if self.config.env_runners.overlong_prompts == "drop":
            metrics["sampling/overlong_groups"] = float(rollouts.num_overlong)
            metrics["sampling/overlong_rows"] = float(sum(map(len, self.left_out[: len(self.config.envs)])))
        metrics |= rollouts.metrics
        metrics |= update_means(updates) | {"optimizer/lr": self.learning_rate(0)}
        return metrics | {"tokens/trained": float(sum(group.num_policy_tokens for group in self.sampled))}

    def _check_collapse(self, refused: Sequence[tuple[EpisodeInfo, ...]]) -> None:
        """Raises RuntimeError where nothing is left to learn from: no group, or responses without a token."""
        if not self.sampled and refused:
            training = self.config.training
            raise RuntimeError(
                f"dynamic sampling refused all {len(refused)} groups of {training.max_sampling_rounds} rounds: "
                "the problems are too hard or too easy for this policy. Mix in others, raise training.group_size or "
                "training.max_sampling_rounds, or write training.dynamic_sampling: false"
            )
        # An empty response has one token, its end of sequence.
        longest = max(info.num_policy_tokens for group in self.sampled for info in group.infos)
        self._num_empty_iterations = self._num_empty_iterations + 1 if longest <= 1 else 0
        if self._num_empty_iterations >= MAX_EMPTY_ITERATIONS:
            raise RuntimeError(
                f"every response of the last {MAX_EMPTY_ITERATIONS} iterations is empty: the policy writes its "
                "end-of-sequence token first. Start from a model that answers this prompt (`tgpo-ray env show` prints "
                "some), or lower training.lr if it did at first; the last checkpoint is intact"
            )
