"""OnPolicyConfig, the configuration of an algorithm that samples from the policy that it trains."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from tgpo_ray.config.algorithm_config import AlgorithmConfig, section
from tgpo_ray.config.run_sections import OptimizerConfig
from tgpo_ray.config.sections import RunView
from tgpo_ray.config.values import NonNegative, NonNegativeFloat, Positive
from tgpo_ray.models import architecture_fact, model_facts

OldLogprobs = Literal["none", "sampler", "learner"]


class TrainingConfig(OptimizerConfig):
    """`training`: batch shape, optimizer and policy loss of an algorithm that samples from the policy."""

    unread: ClassVar[tuple[str, ...]] = ()  # inherited keys that the algorithm's loss does not contain

    num_iterations: Positive = Field(default=300, description="Iterations: sample, score, update, sync weights.")
    groups_per_iteration: Positive = Field(default=128, description="Problems sampled in an iteration.")
    group_size: Positive = Field(default=8, description="Episodes of one problem.")
    updates_per_iteration: Positive = Field(default=1, description="Optimizer steps that share an iteration's groups.")
    old_logprobs: OldLogprobs | None = Field(
        default=None,
        description="Source of pi_old; null: sampler where max_staleness > 0, none with one update, else learner.",
    )
    lr_warmup_steps: NonNegative = Field(default=0, description="Optimizer steps of linear warm-up.")
    clip_low: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.2, description="The ratio is clipped at 1 - this.")
    clip_high: NonNegativeFloat = Field(default=0.2, description="The ratio is clipped at 1 + this.")
    entropy_weight: NonNegativeFloat = Field(default=0.001, description="Weight of the entropy bonus.")
    max_staleness: NonNegative = Field(
        default=0,
        description="Batches sampled ahead of the one that is learned; 0: on-policy; 1: one, in a fixed order.",
    )
    dynamic_sampling: bool = Field(
        default=False, description="Replace groups whose rewards are all equal, which teach nothing, by other problems."
    )
    max_sampling_rounds: Positive = Field(
        default=10, description="Rounds of dynamic sampling; then the iteration goes on with the groups it has."
    )

    @property
    def needs_sampler_logprobs(self) -> bool:
        """Whether episodes carry the log-probs that the engine reported."""
        return self.sampler_is_old

    @property
    def sampler_is_old(self) -> bool:
        return self.resolved_old_logprobs() == "sampler"

    def resolved_old_logprobs(self) -> OldLogprobs:
        """Returns `old_logprobs`, or the value that null stands for."""
        if self.old_logprobs is not None:
            return self.old_logprobs
        if self.max_staleness > 0:
            return "sampler"
        return "none" if self.updates_per_iteration == 1 else "learner"

    @property
    def groups_per_update(self) -> int:
        return self.groups_per_iteration // self.updates_per_iteration

    def fill_in(self, run: RunView, *, gpus: bool) -> None:
        self.old_logprobs = self.resolved_old_logprobs()

    def rules(self, run: RunView) -> Iterator[str]:
        yield from self._group_rules(run)
        yield from self._update_rules(run)
        if self.max_staleness == 0 and run.env_runners.weight_update == "in_flight":
            yield (
                "env_runners.weight_update: in_flight needs training.max_staleness >= 1, got 0: on-policy, nobody "
                "samples while weights change; raise max_staleness, or write between_batches"
            )
        if self.max_staleness > 0 and run.env_runners.sleep:
            yield (
                f"env_runners.sleep: needs training.max_staleness 0, got {self.max_staleness}: engines that sample "
                "ahead work while the learners do"
            )
        if self.max_staleness > 0 and self.old_logprobs == "none":
            yield (
                f"training.old_logprobs: none needs max_staleness 0, got {self.max_staleness}: the policy that sampled "
                "is an earlier one; write sampler, learner or null"
            )
        if self.dropout:
            yield (
                "training.dropout: must be false where the policy samples, got true: the engine samples without "
                "dropout, so the ratio of the policy that is trained to the one that sampled would not be 1"
            )
        for key in self.unread:  # a value that nothing reads would mislead
            if getattr(self, key) != type(self).model_fields[key].default:
                yield f"training.{key}: the loss of {run.algorithm_path} does not contain it; leave it out"

    def _group_rules(self, run: RunView) -> Iterator[str]:
        if run.group_relative and self.group_size < 2:
            yield (
                f"training.group_size: must be >= 2, got {self.group_size}: one episode has no group to compare with"
            )
        if not self.dynamic_sampling:
            yield from self.without_use("max_sampling_rounds", needs="training.dynamic_sampling true, got false")
        if self.dynamic_sampling and self.group_size < 2:
            yield "training.dynamic_sampling: needs group_size >= 2, got 1: the rewards of one episode are always equal"

    def _update_rules(self, run: RunView) -> Iterator[str]:
        groups, updates, num_learners = self.groups_per_iteration, self.updates_per_iteration, run.learners.num_learners
        episodes = groups // updates * self.group_size
        if groups % updates:
            yield (
                f"training.groups_per_iteration: must be a multiple of updates_per_iteration ({updates}), got {groups}:"
                " each update trains on as many groups"
            )
        elif episodes < num_learners:
            yield (
                f"learners.num_learners: must be <= {episodes}, the episodes of one update, got {num_learners}: a "
                "learner would have nothing to train on"
            )
        if self.old_logprobs == "none" and updates > 1:
            yield (
                f"training.old_logprobs: none needs updates_per_iteration 1, got {updates}: after the first update the "
                "policy is no longer the one that sampled; write learner, sampler or null"
            )

    def facts(self, run: RunView) -> dict[str, str]:
        groups, updates = self.groups_per_iteration, self.updates_per_iteration
        episodes, longest = groups * self.group_size, run.longest_episode()
        # Bounds: they take every sequence at its greatest length.
        responses, budget = episodes * run.env_runners.max_response_tokens, run.learners.budget(longest)
        micro_batches = math.ceil(episodes / updates / run.learners.num_learners / max(1, budget // longest))
        return {
            "architecture": architecture_fact(model_facts(run.model.path, run.model.hf_overrides)),
            "iterations": f"{self.num_iterations}, {self.num_iterations * updates} optimizer steps",
            "rollouts": f"{groups} groups x {self.group_size} = {episodes} episodes",
            "updates": f"{updates}, each on {self.groups_per_update} groups = {episodes // updates} episodes",
            "denominator Z": self.denominator_fact(episodes // updates, responses // updates),
            "tokens": f"at most {episodes * longest:,} ({responses:,} of them responses)",
            "micro-batches": f"{micro_batches} a learner and update at full length, of {budget:,} tokens",
            "old log-probs": self.resolved_old_logprobs(),
            "sampling": self._sampling_fact(run),
        }

    def _sampling_fact(self, run: RunView) -> str:
        if self.max_staleness == 0:
            return "on-policy: each iteration samples from the weights that it updates"
        ahead = "1 batch" if self.max_staleness == 1 else f"up to {self.max_staleness} batches"
        when = {"between_batches": "between batches", "in_flight": "within responses"}[run.env_runners.weight_update]
        return f"{ahead} ahead of the learners; engines take new weights {when}"

    def denominator_fact(self, episodes: int, tokens: int) -> str:
        """Returns the divisor of an update of `episodes` episodes with at most `tokens` response tokens, as text."""
        return f"policy tokens of an update over all learners, at most {tokens:,}"


class OnPolicyConfig(AlgorithmConfig):
    """The configuration of a run of an `OnPolicyAlgorithm`."""

    training: TrainingConfig = section(TrainingConfig, "Batch shape, optimizer, policy loss.")

    @property
    def syncs_later(self) -> bool:
        return self.training.max_staleness > 1 or self.env_runners.weight_update == "in_flight"
