"""TGPO: GRPO with guidance, the log-probability of the teacher's token at each position of the policy's own text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tgpo_ray.config import AlgorithmConfig, GuidanceConfig, TeachersConfig

from .grpo import GRPO
from .grpo_config import GRPOTrainingConfig
from .policy_options import policy_options
from .taught import Taught, num_tokens
from .token_losses import GuidedPolicyLoss, SoftGuidedPolicyLoss

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss


class TGPOConfig(AlgorithmConfig):
    """Configuration of TGPO. With `guidance.decay` 1e-5 it is the paper's TGPO-annealing, with 0 its constant TGPO."""

    algo_class: ClassVar[type | str | None] = "tgpo_ray.algorithms.tgpo:TGPO"
    needs_teacher: ClassVar[bool] = True

    algorithm: str = Field(default="TGPO", description="TGPO, or an import path as my_pkg.mod:MyConfig.")
    teachers: TeachersConfig = Field(
        default_factory=TeachersConfig, description="Teacher pools by name; `teacher` is a map of one."
    )
    training: GRPOTrainingConfig = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        default_factory=GRPOTrainingConfig, description="Batch shape, optimizer, policy loss."
    )
    guidance: GuidanceConfig = Field(default_factory=GuidanceConfig, description="The teacher's term of the loss.")

    def problems(self, *, files: bool = True) -> list[str]:
        served = [name for name, teacher in self.teachers.items() if teacher.backend == "remote"]
        drawn = self.guidance.label == "sample"
        return super().problems(files=files) + [
            f"guidance.label: sample needs teachers.{name}.backend vllm or transformers, got remote: a server's prompt "
            "log-probs draw no token; label topk is near, and a server gives it"
            for name in served
            if drawn
        ]


class TGPO(Taught[TGPOConfig], GRPO[TGPOConfig]):
    """Teacher-Guided Policy Optimization (arXiv 2605.13230), Eq. 3, 4 and 6.

        L = L_GRPO + w_t / Z sum_it m^T_it [ -log pi(y^T_it | x_i, y_i<t) ],   w_t = max(w - decay * t, minimum)

    y^T_it is the teacher's argmax; `guidance.label: sample` draws it from the teacher at temperature 1, which makes the
    expected guidance gradient that of the forward KL; `topk` takes that KL on the teacher's `guidance.top_k` tokens.
    """

    config_class = TGPOConfig

    def wanted(self) -> set[str]:
        guidance = self.config.guidance
        return {f"topk:{guidance.top_k}" if guidance.label == "topk" else guidance.label}

    @property
    def needs_batch(self) -> bool:
        """Unless guidance and policy loss are divided alike, by tokens, guidance must know the whole batch's tokens."""
        both = (self.config.guidance.normalization, self.training.loss_aggregation)
        return self.guidance_weight > 0.0 and both != ("token", "token")

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        weight, guidance, options = self.guidance_weight, self.config.guidance, policy_options(self.training)
        if weight == 0.0:
            return super().loss(groups)
        kind = SoftGuidedPolicyLoss if guidance.label == "topk" else GuidedPolicyLoss
        if guidance.normalization == "sequence":
            mean_length = self.denominator(groups) / sum(len(group.infos) for group in groups)
            return kind(**options, guidance_weight=weight, normalization="sequence", mean_length=mean_length)
        if self.training.loss_aggregation != "token":  # takes the step's denominator out of guidance and puts Z in
            weight *= self.denominator(groups) / num_tokens(groups)
        return kind(**options, guidance_weight=weight)
