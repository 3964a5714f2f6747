"""PRIME: a process-reward model, which learns online from outcomes only, gives every token its credit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from tgpo_ray.cluster import copy_folder, is_folder, join, parent
from tgpo_ray.config import (
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    RunView,
    Section,
    Share,
    named,
    section,
)
from tgpo_ray.driver import GroupTokens, learners_logprobs, placed, with_values

from .advantages import no_advantages
from .grpo import GRPO
from .grpo_config import REWARD_SHAPING, GRPOFamilyConfig, GRPOTrainingConfig
from .process_advantages import prime_advantages
from .process_reward import ProcessRewardLoss
from .token_advantages import SCORER, TokenAdvantageLoss

if TYPE_CHECKING:
    from tgpo_ray.driver import Metrics
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss
    from tgpo_ray.teachers import TeacherGroup


JUDGE_FOLDER = "process_reward"  # in a copied checkpoint


class PRIMETrainingConfig(GRPOTrainingConfig):
    """`training` of PRIME: the authors' 256 problems with 4 responses each, filtered by accuracy.

    Outcomes are the environment's own rewards.
    """

    unread = REWARD_SHAPING

    groups_per_iteration: Positive = Field(default=256, description="Problems sampled in an iteration.")
    group_size: Positive = Field(default=4, description="Episodes of one problem.")
    updates_per_iteration: Positive = Field(default=4, description="Optimizer steps that share an iteration's groups.")
    lr: PositiveFloat = Field(default=5e-7, description="Learning rate of AdamW.")
    entropy_weight: NonNegativeFloat = Field(default=0.0, description="Weight of the entropy bonus.")
    dynamic_sampling: bool = Field(default=True, description="Keep groups of middling accuracy only.")
    min_accuracy: Share = Field(default=0.2, description="Groups of a smaller share of right answers are replaced.")
    max_accuracy: Share = Field(default=0.8, description="Groups of a larger share of right answers are replaced.")

    def rules(self, run: RunView) -> Iterator[str]:
        yield from super().rules(run)
        temperature = run.env_runners.temperature
        if temperature != 1.0:
            yield (
                f"env_runners.temperature: must be 1.0 here, got {temperature:g}: the reference's log-probs are those "
                "of temperature 1, and a ratio with the process-reward model's at another has no meaning"
            )
        if not self.dynamic_sampling:
            needs = "training.dynamic_sampling true, got false"
            yield from self.without_use("min_accuracy", "max_accuracy", needs=needs)
        if self.min_accuracy > self.max_accuracy:
            yield (
                f"training.min_accuracy: must be <= max_accuracy ({self.max_accuracy:g}), got {self.min_accuracy:g}: "
                "no group would be kept"
            )


class ProcessRewardConfig(Section):
    """`process_reward`, the learner group of the process-reward model. `learners` gives its placement and engine."""

    lr: PositiveFloat = Field(default=1e-6, description="Learning rate of AdamW.")
    grad_clip: PositiveFloat = Field(default=10.0, description="Largest gradient norm; longer gradients are scaled.")
    beta: PositiveFloat = Field(default=0.05, description="Scale of the summed log-ratio in the cross-entropy.")
    scores: Literal["after_update", "before_update"] = Field(
        default="after_update",
        description="Whether tokens are scored by the model after or before it learns from them.",
    )


class PRIMEConfig(GRPOFamilyConfig):
    """Configuration of PRIME. `reference` is the log-ratio's frozen model, by default the policy's first weights."""

    algo_class = "tgpo_ray.algorithms.prime:PRIME"
    learner_groups = ("learner", "process-reward learner")

    algorithm: str = named("PRIME")
    training: PRIMETrainingConfig = section(PRIMETrainingConfig, "Batch shape, optimizer, policy loss.")
    process_reward: ProcessRewardConfig = section(
        ProcessRewardConfig, "The process-reward model: a second learner group."
    )

    @property
    def uses_reference(self) -> bool:
        return True


class PRIME(GRPO[PRIMEConfig]):
    """Process reinforcement through implicit rewards.

        r_t = log pi_PRM(y_t) - log pi_ref(y_t);   A = whiten(leave-one-out returns of r and of the outcome)

    PRIME (2502.01456). The groups first teach the process-reward model, by cross-entropy on their verdicts. Then it
    scores them (`process_reward.scores: before_update` reverses these two steps). Then they train the policy by the
    clipped token mean. Where we differ from the authors' code: process rewards have the paper's leave-one-out
    (process_advantages.py), and whitening is over an iteration's batch, not over each mini-batch's copy of it.
    """

    config_class = PRIMEConfig
    judge_checkpoint: str | None = None

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        super().build_scorers(teachers)
        from tgpo_ray.learners import build_learners

        options = self.config.process_reward
        place = (self.config, self.run_folder, self.session, "process-reward")
        self.judges = self._own(build_learners(*place, lr=options.lr, grad_clip=options.grad_clip))
        # with adapters: no actor, and log-probs of the model below those of the judges
        self.base_is_reference = not self.config.starts_reference
        self.judge_metrics: Metrics = {}

    def keep(self, group: SampledGroup) -> bool:
        """Whether the share of right answers is within the bounds."""
        accuracy = np.mean([info.outcome == "correct" for info in group.infos])
        return bool(self.config.training.min_accuracy <= accuracy <= self.config.training.max_accuracy)

    @property
    def needs_batch(self) -> bool:
        return True

    def score_batch(self, groups: list[SampledGroup]) -> list[SampledGroup]:
        """The groups with their advantages, after an update of the process-reward model.

        The reference has answered before, and its log-probabilities are in the groups. Where it is the model below the
        adapters, it answers here.
        """
        if not groups:
            return groups
        if self.base_is_reference:
            base = self.judges.logprobs(groups, base=True)
            groups = with_values(groups, learners_logprobs, "reference", base, field="teacher_logprobs")
        before = self.config.process_reward.scores == "before_update"
        logprobs = self.judges.logprobs(groups) if before else []
        self._update_judges(groups)
        return with_values(groups, advantages, SCORER, logprobs or self.judges.logprobs(groups))

    def _update_judges(self, batch: list[SampledGroup]) -> None:
        """Updates the process-reward model on the same parts of the batch as the policy."""
        options = self.config.process_reward
        updates: list[Metrics] = []
        for part in self.split(batch):
            self.judges.accumulate(part, no_advantages(part), ProcessRewardLoss(options.beta))
            num_episodes = float(sum(len(group.infos) for group in part))  # the loss is a mean over responses
            updates.append(self.judges.step(num_episodes, options.lr))
        self.judge_metrics = {
            f"process_reward/{name.split('/')[-1]}": float(np.mean([update[name] for update in updates]))
            for name in updates[0]
            if not name.startswith("loss/")  # `process_reward/loss` leaves out responses that have no reference
        }

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        return TokenAdvantageLoss(**self.policy_options(groups))

    def check_metrics(self, metrics: Metrics) -> Metrics:
        """The metrics with those of the process-reward model."""
        return super().check_metrics(metrics) | self.judge_metrics

    def save(self, path: str | None = None) -> str:
        """Writes a checkpoint of both models and returns its path.

        The policy's checkpoint names the other's. A copy at `path` contains both.
        """
        name, judge = f"checkpoint_{self.iteration:06d}_{self.num_recoveries}", self.judge_checkpoint
        if judge is None or not judge.endswith(name):  # not saved at this iteration yet
            self.judge_checkpoint = judge = self.judges.save(name, {})
        saved = super().save(path)
        if path is not None:
            copy_folder(judge, join(saved, JUDGE_FOLDER))
        return saved

    def state_dict(self) -> dict[str, Any]:
        run = self.run_folder.partition("?")[0]
        name = (self.judge_checkpoint or "").partition("?")[0].removeprefix(f"{run}/")  # a run's folder may be moved
        return super().state_dict() | {"process_reward": name or None}

    def checkpoint_folders(self) -> list[str]:
        return [*super().checkpoint_folders(), *filter(None, [self.judge_checkpoint])]

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        copy = join(self._last_checkpoint, JUDGE_FOLDER)  # only a copied checkpoint has it
        name, run = state.get("process_reward"), parent(parent(self._last_checkpoint))
        self.judge_checkpoint = copy if is_folder(copy) else join(run, name) if name else None
        if self.judge_checkpoint is not None:
            self.judges.load(self.judge_checkpoint)


def advantages(groups: Sequence[GroupTokens]) -> list[list[np.ndarray]]:
    """(T,) for each episode, PRIME's advantages on the policy's tokens and 0 elsewhere."""
    process = [[ratio(group, i)[mask] for i, mask in enumerate(group.masks)] for group in groups]
    return placed(groups, prime_advantages(process, [group.rewards for group in groups]))


def ratio(group: GroupTokens, place: int) -> np.ndarray:
    """(T,) r_t of one episode; 0 where the reference did not answer, so that only the outcome counts."""
    reference, logprobs = group.guidance[place].get("reference"), group.logprobs[place]
    assert logprobs is not None, "the process-reward learners skipped an episode"
    if reference is None or reference.teacher_logprobs is None:
        return np.zeros(len(logprobs), np.float32)
    return logprobs - reference.teacher_logprobs
