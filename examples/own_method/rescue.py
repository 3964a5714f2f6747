"""Rescue: GRPO, and a teacher only for the problems of which the policy solved none."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field
from torch import Tensor

from tgpo_ray.algorithms.taught_config import TaughtConfig, TeacherTermConfig
from tgpo_ray.algorithms.tgpo import TGPO
from tgpo_ray.algorithms.token_losses import GuidedPolicyLoss
from tgpo_ray.config import NonNegativeFloat, section
from tgpo_ray.episode import SampledGroup
from tgpo_ray.kernels import TokenLoss, TokenRows


class RescueTermConfig(TeacherTermConfig):
    """`guidance` of Rescue: weight, decay and the rest of every teacher's term, and one key of its own."""

    focus: NonNegativeFloat = Field(default=1.0, description="0: all tokens alike; above: the unlikelier count more.")


class RescueConfig(TaughtConfig):
    """Configuration of Rescue."""

    algo_class = "rescue:Rescue"

    guidance: RescueTermConfig = section(RescueTermConfig, "The teacher's term of the loss.")

    def rules(self) -> Iterator[str]:
        """Yields a line for each broken rule: `tgpo-ray plan` prints them all before anything starts."""
        yield from super().rules()
        if self.uses_reference:
            yield "training.kl_weight: must be 0 here: solved groups pass no scorer, the reference neither"


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


class Rescue(TGPO):
    """Teacher-guided policy optimization of failed groups; all others train as under GRPO and see no teacher."""

    config_class = RescueConfig

    @property
    def loss_needs_batch(self) -> bool:
        return False

    def wanted(self) -> set[str]:
        return {"argmax"}

    def annotate(self, groups: Iterator[SampledGroup]) -> Iterator[SampledGroup]:
        """Send failed groups to the teacher, as they come; the others follow at the end."""
        solved: list[SampledGroup] = []

        def failed() -> Iterator[SampledGroup]:
            for group in groups:
                if any(info.outcome == "correct" for info in group.infos):
                    solved.append(group)
                else:
                    yield group

        yield from super().annotate(failed())
        yield from solved

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        options: dict[str, Any] = self.policy_loss_options()
        return RescueLoss(**options, guidance_weight=self.guidance_weight, focus=self.config.guidance.focus)
