"""TGPO: GRPO with guidance, the log-probability of the teacher's token at each position of the policy's response."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from tgpo_ray.config import RunView, named, section

from .gate_config import DIAGNOSTICS, merged
from .grpo import GRPO
from .grpo_config import GRPOFamilyConfig
from .prefixed import PrefixConfig, Prefixed, PrefixedPolicyLoss
from .taught_config import TaughtConfig
from .token_losses import GuidedPolicyLoss, SoftGuidedPolicyLoss

if TYPE_CHECKING:
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.guidance import Gate
    from tgpo_ray.kernels import TokenLoss


class GuidanceConfig(PrefixConfig):
    """`guidance`: the teacher's term of the loss, w_t * g_t * -log pi(teacher's token)."""

    schedules: ClassVar[tuple[str, ...]] = (*PrefixConfig.schedules, "balanced")

    label: Literal["argmax", "sample", "topk"] = Field(
        default="argmax",
        description="What is learned: the teacher's likeliest token, one drawn from it, or its top_k distribution.",
    )
    top_k: Annotated[int, Field(ge=2, le=128)] = Field(
        default=20, description="Label topk: number of the teacher's tokens, >= 2; one is label argmax."
    )
    normalization: Literal["token", "sequence"] = Field(
        default="token", description="token: all guided tokens weigh the same; sequence: all responses do (Eq. 3)."
    )

    def rules(self, run: RunView) -> Iterator[str]:
        yield from super().rules(run)
        if self.label != "topk":
            yield from self.without_use("top_k", needs=f"guidance.label topk, got {self.label}")
        temperature = run.env_runners.temperature
        if self.label == "sample" and temperature != 1.0:
            yield (
                f"guidance.label: sample needs env_runners.temperature 1.0, got {temperature:g}: the teacher draws at "
                "temperature 1, and the policy learns at another; label topk tempers both"
            )


class TGPOConfig(GRPOFamilyConfig, TaughtConfig):
    """Configuration of TGPO. `guidance.decay` 1e-5 is the paper's TGPO-annealing, and 0 is its constant TGPO."""

    algo_class = "tgpo_ray.algorithms.tgpo:TGPO"

    algorithm: str = named("TGPO")
    guidance: GuidanceConfig = section(GuidanceConfig, "The teacher's term of the loss.")

    @property
    def needs_teachers(self) -> bool:
        return not self.guidance.labels_from_file

    def rules(self) -> Iterator[str]:
        yield from super().rules()
        units = (self.training.loss_aggregation, self.guidance.normalization)
        if self.guidance.schedule == "balanced" and units != ("token", "token"):
            yield (
                f"guidance.schedule: balanced compares means over tokens, got training.loss_aggregation {units[0]} and "
                f"guidance.normalization {units[1]}: write token for both"
            )
        served = [name for name, teacher in self.teachers.items() if teacher.backend == "remote"]
        if self.guidance.label == "sample":
            for name in served:
                yield (
                    f"guidance.label: sample needs teachers.{name}.backend vllm or transformers, got remote: a "
                    "server's prompt log-probs draw no token; label topk is near, and a server gives it"
                )


class TGPO(Prefixed[TGPOConfig], GRPO[TGPOConfig]):
    """Teacher-Guided Policy Optimization (arXiv 2605.13230), Eq. 3, 4 and 6.

        L = L_GRPO + w_t / Z sum_it g_it m^T_it [ -log pi(y^T_it | x_i, y_i<t) ],   w_t = max(w - decay t, minimum)

    y^T_it is the teacher's argmax. `guidance.label: sample` draws it from the teacher at temperature 1, which makes the
    expected guidance gradient that of the forward KL. `topk` takes that KL on the teacher's `guidance.top_k` tokens, of
    both models at the sampling temperature. g_it is the factor of `guidance.gate`, 1 without one. Groups that a gate
    shuts wholly are not sent to the teacher. With `guidance.prefixes` y_i<t may be text of the base or the teacher.
    """

    config_class = TGPOConfig

    def wanted(self) -> set[str]:
        guidance = self.config.guidance
        label = f"topk:{guidance.top_k}" if guidance.label == "topk" else guidance.label
        return merged({label, *guidance.asked()})

    def asks_teacher(self, group: SampledGroup) -> bool:
        """Whether the gate may be open in this group, as far as its rewards say it."""
        return super().asks_teacher(group) and (self.gate is None or not self.gate.shuts(group.success))

    @cached_property
    def gate(self) -> Gate | None:
        return self.config.guidance.build_gate()

    @property
    def needs_batch(self) -> bool:
        """Whether guidance needs the whole batch's tokens: unless it and the policy loss are both divided by tokens."""
        units = (self.config.guidance.normalization, self.config.training.loss_aggregation)
        return super().needs_batch or (self.guidance_weight > 0.0 and units != ("token", "token"))

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        weight, guidance, options = self.guidance_weight, self.config.guidance, self.policy_options(groups)
        if weight == 0.0:  # no teacher was called, so the rows have no teacher tokens
            return super().loss(groups)
        if self.shelf is not None:
            return PrefixedPolicyLoss(
                **options,
                guidance_weight=weight * self.per_guided_token(groups),
                guides_policy=not guidance.labels_from_file,
            )
        teacher: dict[str, Any] = {"gate": self.gate, "diagnostics": DIAGNOSTICS[guidance.diagnostics]}
        kind = GuidedPolicyLoss
        if guidance.label == "topk":
            kind = partial(SoftGuidedPolicyLoss, temperature=self.config.env_runners.temperature)
        if guidance.normalization == "sequence":
            # Over 1/|y_i|, this makes guidance a mean over responses under the step's denominator.
            mean_length = self.denominator(groups) / sum(len(group.infos) for group in groups)
            return kind(**options, **teacher, guidance_weight=weight, normalization="sequence", mean_length=mean_length)
        return kind(**options, **teacher, guidance_weight=weight * self.per_token(groups))
