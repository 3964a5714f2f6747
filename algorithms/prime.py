"""PRIME: a process-reward model, learned online from outcomes alone, gives every token its credit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field

from tgpo_ray.cluster import copy_folder, is_folder
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
from tgpo_ray.driver import GroupTokens, placed, with_values

from .grpo import GRPO
from .grpo_config import GRPOFamilyConfig, GRPOTrainingConfig
from .policy_options import policy_options
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
    """`training` of PRIME: the authors' 256 problems of 4, filtered by accuracy."""

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
        if self.min_accuracy > self.max_accuracy:
            yield (
                f"training.min_accuracy: must be <= max_accuracy ({self.max_accuracy:g}), got {self.min_accuracy:g}: "
                "no group would be kept"
            )


class ProcessRewardConfig(Section):
    """`process_reward`: the learner group of the process-reward model. Placement and engine are those of `learners`."""

    lr: PositiveFloat = Field(default=1e-6, description="Learning rate of AdamW.")
    grad_clip: PositiveFloat = Field(default=10.0, description="Largest gradient norm; longer gradients are scaled.")
    beta: PositiveFloat = Field(default=0.05, description="Scale of the summed log-ratio in the cross-entropy.")
    scores: Literal["after_update", "before_update"] = Field(
        default="after_update",
        description="Whether tokens are scored by the model after or before it learns from them.",
    )


class PRIMEConfig(GRPOFamilyConfig):
    """Configuration of PRIME. `reference` is the frozen model of the log-ratio; null: the policy's first weights."""

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

    PRIME (2502.01456). Each update's groups first teach the process-reward model, by cross-entropy on their verdicts,
    then are scored by it (`process_reward.scores` turns that round), then train the policy by the clipped token mean.
    Where we differ from the authors' code: the paper's leave-one-out of process rewards (process_advantages.py), and
    whitening over an iteration's batch, not over each mini-batch's copy of it.
    """

    config_class = PRIMEConfig
    judge_checkpoint: str | None = None

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        super().build_scorers(teachers)
        from tgpo_ray.learners import build_learners

        section = self.config.process_reward
        where = (self.config, self.run_folder, self.session, "process-reward")
        self.judges = self._own(build_learners(*where, lr=section.lr, grad_clip=section.grad_clip))
        self.judge_metrics: Metrics = {}

    def keep(self, group: SampledGroup) -> bool:
        accuracy = np.mean([info.outcome == "correct" for info in group.infos])
        return bool(self.config.training.min_accuracy <= accuracy <= self.config.training.max_accuracy)

    @property
    def needs_batch(self) -> bool:
        return True

    def score_batch(self, groups: list[SampledGroup]) -> list[SampledGroup]:
        """The process-reward model's lesson, then everybody's advantages; the reference has answered already."""
        if not groups:
            return groups
        before = self.config.process_reward.scores == "before_update"
        found = self.judges.logprobs(groups) if before else []
        self._teach(groups)
        return with_values(groups, advantages, SCORER, found or self.judges.logprobs(groups))

    def _teach(self, batch: list[SampledGroup]) -> None:
        section = self.config.process_reward
        updates: list[Metrics] = []
        for part in self.split(batch):
            zeros = [np.zeros(len(group.infos)) for group in part]
            self.judges.accumulate(part, zeros, ProcessRewardLoss(section.beta))
            updates.append(self.judges.step(float(sum(len(group.infos) for group in part)), section.lr))
        self.judge_metrics = {
            f"process_reward/{name.split('/')[-1]}": float(np.mean([update[name] for update in updates]))
            for name in updates[0]
            if not name.startswith("loss/")  # `process_reward/loss` leaves out responses that have no reference
        }

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        return TokenAdvantageLoss(**policy_options(self.config.training))

    def check_metrics(self, metrics: Metrics) -> Metrics:
        """Add what the process-reward model reported."""
        return super().check_metrics(metrics) | self.judge_metrics

    def save(self, path: str | None = None) -> str:
        """A checkpoint of both models: the policy's names the other's, and a copy at `path` holds it, too."""
        name, judge = f"checkpoint_{self.iteration:06d}_{self.num_recoveries}", self.judge_checkpoint
        if judge is None or not judge.endswith(name):
            self.judge_checkpoint = judge = self.judges.save(name, {})
        saved = super().save(path)
        if path is not None:
            copy_folder(judge, f"{saved}/{JUDGE_FOLDER}")
        return saved

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"process_reward": self.judge_checkpoint}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        copied = f"{self._last_checkpoint}/{JUDGE_FOLDER}"
        self.judge_checkpoint = copied if is_folder(copied) else state.get("process_reward")
        if self.judge_checkpoint is not None:
            self.judges.load(self.judge_checkpoint)


def advantages(groups: Sequence[GroupTokens]) -> list[list[np.ndarray]]:
    """(T,) for each episode: PRIME's advantages on the policy's tokens, 0 elsewhere."""
    process = [[ratio(group, i)[mask] for i, mask in enumerate(group.masks)] for group in groups]
    return placed(groups, prime_advantages(process, [group.rewards for group in groups]))


def ratio(group: GroupTokens, place: int) -> np.ndarray:
    """r_t (T,) of one episode; 0 where the reference did not answer, so that the outcome alone counts."""
    reference, judged = group.guidance[place].get("reference"), group.logprobs[place]
    assert judged is not None, "the process-reward learners skipped an episode"
    if reference is None or reference.teacher_logprobs is None:
        return np.zeros(len(judged), np.float32)
    return judged - reference.teacher_logprobs
