"""Rescue: GRPO with a teacher only for groups in which no response is right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from pydantic import Field
from torch import Tensor

from tgpo_ray.algorithms.grpo import GRPO
from tgpo_ray.algorithms.grpo_config import GRPOFamilyConfig
from tgpo_ray.algorithms.taught import Taught
from tgpo_ray.algorithms.taught_config import TaughtConfig, TeacherTermConfig
from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss
from tgpo_ray.config import NonNegativeFloat, section
from tgpo_ray.episode import SampledGroup
from tgpo_ray.kernels import TokenLoss, TokenRows


class RescueTermConfig(TeacherTermConfig):
    """`guidance` of Rescue: the keys of every teacher's term, and `focus`."""

    focus: NonNegativeFloat = Field(default=1.0, description="0: all tokens alike; above: the unlikelier count more.")


class RescueConfig(GRPOFamilyConfig, TaughtConfig):
    """Configuration of Rescue."""

    algo_class = "rescue:Rescue"

    guidance: RescueTermConfig = section(RescueTermConfig, "The teacher's term of the loss.")

    def rules(self) -> Iterator[str]:
        """Yields a line for each broken rule. `tgpo-ray plan` prints them all before anything starts."""
        yield from super().rules()
        if self.training.loss_aggregation != "token":
            yield "training.loss_aggregation: must be token here: guidance is divided as the policy loss is"


@dataclass(frozen=True)
class RescueLoss(GuidedPolicyLoss):
    """The policy loss plus guidance that fades where the policy already gives the teacher's token.

        L_t = L_pg,t + guidance_weight m^T_t (1 - sg[p])^focus [ -log p ],   p = pi(y^T_t)

    The weight (1 - p)^focus is that of the focal loss (Lin et al. 2017), without gradient.
    """

    focus: float = 1.0

    def guidance(self, logprobs: Tensor, rows: TokenRows) -> Tensor:
        doubt = 1.0 - logprobs[:, 1].detach().exp().clamp(max=1.0)  # (N,)
        return super().guidance(logprobs, rows) * doubt**self.focus


class Rescue(Taught[RescueConfig], GRPO[RescueConfig]):
    """Teacher-guided policy optimization of failed groups. All others train as in GRPO, without a teacher."""

    config_class = RescueConfig

    def asks_teacher(self, group: SampledGroup) -> bool:
        return not any(info.outcome == "correct" for info in group.infos)

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        options, focus = self.policy_options(groups), self.config.guidance.focus
        return RescueLoss(**options, guidance_weight=self.guidance_weight, focus=focus)
