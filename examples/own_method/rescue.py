"""Rescue: GRPO, and a teacher only for the problems of which the policy solved none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from tgpo_ray.algorithms.grpo import GRPO
from tgpo_ray.algorithms.grpo_config import GRPOTrainingConfig
from tgpo_ray.algorithms.policy_options import policy_options
from tgpo_ray.algorithms.taught import Taught
from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss
from tgpo_ray.config import AlgorithmConfig, NonNegativeFloat, TeachersConfig, TeacherTermConfig
from tgpo_ray.episode import SampledGroup
from tgpo_ray.kernels import TokenLoss, TokenRows


class RescueTermConfig(TeacherTermConfig):
    """`guidance` of Rescue: weight, decay and the rest of every teacher's term, and one key of its own."""

    focus: NonNegativeFloat = Field(default=1.0, description="0: all tokens alike; above: the unlikelier count more.")


class RescueConfig(AlgorithmConfig):
    """Configuration of Rescue."""

    algo_class: ClassVar[type | str | None] = "rescue:Rescue"
    needs_teacher: ClassVar[bool] = True

    teachers: TeachersConfig = Field(default_factory=TeachersConfig, description="The teacher, called default.")
    training: GRPOTrainingConfig = Field(default_factory=GRPOTrainingConfig)  # pyright: ignore
    guidance: RescueTermConfig = Field(default_factory=RescueTermConfig, description="The teacher's term of the loss.")

    def problems(self, *, files: bool = True) -> list[str]:
        """A line for each rule that is broken: `tgpo-ray plan` prints them all before anything starts."""
        found = super().problems(files=files)
        if self.training.loss_aggregation != "token":
            found.append("training.loss_aggregation: must be token here: guidance is divided as the policy loss is")
        return found


@dataclass(frozen=True)
class RescueLoss(GuidedPolicyLoss):
    """The policy loss plus guidance that fades where the policy knows the teacher's token already.

        L_t = L_pg,t + guidance_weight m^T_t (1 - sg[p])^focus [ -log p ],   p = pi(y^T_t)

    The weight (1 - p)^focus is the focal loss's (Lin et al. 2017), held fixed: no gradient flows through it.
    """

    focus: float = 1.0

    def guidance(self, logprobs: Tensor, rows: TokenRows) -> Tensor:
        doubt = 1.0 - logprobs[:, 1].detach().exp().clamp(max=1.0)  # (N,)
        return super().guidance(logprobs, rows) * doubt**self.focus


class Rescue(Taught[RescueConfig], GRPO[RescueConfig]):
    """Teacher-guided policy optimization of failed groups; all others train as under GRPO and see no teacher."""

    config_class = RescueConfig

    def asks_teacher(self, group: SampledGroup) -> bool:
        return not any(info.outcome == "correct" for info in group.infos)

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        options, focus = policy_options(self.training), self.config.guidance.focus
        return RescueLoss(**options, guidance_weight=self.guidance_weight, focus=focus)
