"""TGPO_R: a teacher that shapes the advantages instead of adding a term to the loss."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field
from torch import Tensor

from tgpo_ray.config import NonNegativeFloat, named, section
from tgpo_ray.guidance import GuidanceBatch, Signal, diagnostic_sums, guidance_advantage

from .grpo import GRPO
from .grpo_config import GRPOFamilyConfig
from .taught import Taught
from .taught_config import TaughtConfig, TeacherTermConfig
from .token_losses import Metrics, PolicyLoss

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss, TokenRows


class ShapingConfig(TeacherTermConfig):
    """`guidance` of TGPO_R. Weight and decay are those of the authors' code. The paper gives none."""

    weight: NonNegativeFloat = Field(default=0.02, description="lambda at the first iteration.")
    decay: NonNegativeFloat = Field(default=1e-4, description="Linear schedule: what lambda loses at each iteration.")
    signal: Signal = Field(
        default="logp",
        description="logp: Eq. 5, log pi(teacher's token); prob: the authors' code, pi of it; match: 1 where it was "
        "sampled.",
    )


class TGPORConfig(GRPOFamilyConfig, TaughtConfig):
    """Configuration of TGPO_R. The defaults are Eq. 5, and `guidance.signal: prob` is the authors' run."""

    algo_class = "tgpo_ray.algorithms.tgpor:TGPOR"

    algorithm: str = named("TGPOR")
    guidance: ShapingConfig = section(ShapingConfig, "The teacher's term of the advantage.")


@dataclass(frozen=True)
class ShapedPolicyLoss(PolicyLoss):
    """`PolicyLoss` with A_i + shaping_weight s_it in place of A_i, where s is the term of `guidance_advantage`.

    The policy's log-probability of the teacher's token is that of the weights being trained, without gradient. In an
    iteration's first update it equals pi_old's. The paper's term is pi_old's in all updates.
    """

    shaping_weight: float = 0.02
    signal: Signal = "logp"

    targets: ClassVar[tuple[str, ...]] = ("teacher.teacher_ids",)

    def parts(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> dict[str, Tensor]:
        return super().parts(logprobs, entropy, self.shaped(logprobs, rows))

    def shaped(self, logprobs: Tensor, rows: TokenRows) -> TokenRows:
        """The rows with shaped advantages, unchanged where there is no guidance."""
        sampled_ids, teacher_ids = rows.targets[:, 0], rows.targets[:, 1]  # (N,) each
        shaping = guidance_advantage(
            logprobs[:, 1], rows.target_mask[:, 1], signal=self.signal, sampled_ids=sampled_ids, teacher_ids=teacher_ids
        )
        return rows.replace(advantages=rows.advantages + self.shaping_weight * shaping)

    def metrics(self, logprobs: Tensor, entropy: Tensor | None, rows: TokenRows) -> Metrics:
        metrics = super().metrics(logprobs, entropy, self.shaped(logprobs, rows))
        return metrics | diagnostic_sums(GuidanceBatch.from_rows(logprobs, rows))


class TGPOR(Taught[TGPORConfig], GRPO[TGPORConfig]):
    """Teacher-Guided Policy Optimization by reward shaping (arXiv 2605.13230), section 3.2, Eq. 5.

        A^_it = A_i + lambda_t s_it,   lambda_t = max(weight - decay t, minimum);   then GRPO's clipped token mean

        signal logp:   s = log pi(y^T_it)     Eq. 5 as printed: a penalty where the teacher's token surprises
        signal prob:   s = pi(y^T_it)         what the authors ran, lambda 0.02 falling to 0 at iteration 200
        signal match:  s = 1[y_it = y^T_it]   the paper's sentence: the token is rewarded that the teacher approves of

    With `logp` and `prob` the term depends only on the state. Its expected gradient is exactly 0, so it adds variance.
    `match` has an effect, the guidance gradient times the policy's own pi(y^T). Guided tokens are shaped, also in
    groups of equal reward.
    """

    config_class = TGPORConfig

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        if self.guidance_weight == 0.0:  # no teacher was called, so the rows have no teacher tokens
            return super().loss(groups)
        options, signal = self.policy_options(groups), self.config.guidance.signal
        return ShapedPolicyLoss(**options, shaping_weight=self.guidance_weight, signal=signal)
