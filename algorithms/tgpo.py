"""TGPO: GRPO with guidance, the log-probability of the teacher's token at each position of the policy's own text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from tgpo_ray.config import AlgorithmConfig, GuidanceConfig, TeachersConfig

from .grpo import GRPO
from .grpo_config import GRPOTrainingConfig
from .token_losses import GuidedPolicyLoss, SoftGuidedPolicyLoss

if TYPE_CHECKING:
    from tgpo_ray.driver import Metrics
    from tgpo_ray.episode import SampledGroup
    from tgpo_ray.kernels import TokenLoss
    from tgpo_ray.teachers import TeacherGroup


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


class TGPO(GRPO):
    """Teacher-Guided Policy Optimization (arXiv 2605.13230), Eq. 3, 4 and 6.

        L = L_GRPO + w_t / Z sum_it m^T_it [ -log pi(y^T_it | x_i, y_i<t) ],   w_t = max(w - decay * t, minimum)

    t is the iteration, counted from 0: w is constant over the updates of one. At w_t = 0 no teacher is called, and once
    it stays 0 the teachers started here are ended and their resources return to the cluster.

    y^T_it is the teacher's argmax; `guidance.label: sample` draws it from the teacher at temperature 1, which makes the
    expected guidance gradient that of the forward KL; `topk` takes that KL on the teacher's `guidance.top_k` tokens.
    """

    config_class = TGPOConfig

    def build_scorers(self, teachers: Mapping[str, TeacherGroup] | None) -> None:
        super().build_scorers(teachers)
        self.schedule = self.config.guidance.build_schedule(self.num_iterations)
        self.teachers: Mapping[str, TeacherGroup] = teachers or {}
        if teachers is None and self.schedule.last_step() != 0:
            self._start_teachers()

    def _start_teachers(self) -> None:
        from tgpo_ray.teachers import build_teachers

        self.teachers = build_teachers(self.config, self.config.teachers, unmapped=self.config.guidance.unmapped)
        for group in self.teachers.values():
            self._own(group)

    @property
    def guidance_weight(self) -> float:
        """w_t of the present iteration."""
        return self.schedule(self.iteration)

    def annotate(self, groups: Iterator[SampledGroup]) -> Iterator[SampledGroup]:
        return self.ask_teachers(super().annotate(groups))

    def ask_teachers(self, groups: Iterator[SampledGroup]) -> Iterator[SampledGroup]:
        """Have each group's teacher add its guidance, unless the weight is 0."""
        from tgpo_ray.teachers import annotate

        if self.guidance_weight == 0.0:
            self._release_teachers()
            return groups
        if not self.teachers:  # released, and then a checkpoint from before that was restored
            self._start_teachers()
            for group in self.teachers.values():
                group.wait_until_ready()
        envs = self.config.envs
        return annotate(groups, lambda group: self.teachers[envs[group.task.env_index].teacher], self.wanted())

    def wanted(self) -> set[str]:
        """What the teacher is asked for."""
        guidance = self.config.guidance
        return {f"topk:{guidance.top_k}" if guidance.label == "topk" else guidance.label}

    def _release_teachers(self) -> None:
        last = self.schedule.last_step()
        if last is not None and self.iteration >= last and self.teachers:
            for group in self.teachers.values():
                self._disown(group)
            self.teachers = {}
            print(f"guidance: w = 0 after iteration {self.iteration}; the teachers' resources return", flush=True)

    @property
    def loss_needs_batch(self) -> bool:
        """Unless guidance and policy loss are divided alike, by tokens, guidance must know the whole batch's tokens."""
        both = (self.config.guidance.normalization, self.config.training.loss_aggregation)
        return self.guidance_weight > 0.0 and both != ("token", "token")

    def loss(self, groups: Sequence[SampledGroup]) -> TokenLoss:
        if self.guidance_weight == 0.0:
            return super().loss(groups)
        guidance = self.config.guidance
        kind = SoftGuidedPolicyLoss if guidance.label == "topk" else GuidedPolicyLoss
        options = self.policy_loss_options() | {"normalization": guidance.normalization}
        if guidance.normalization == "sequence":
            num_episodes = sum(len(group.infos) for group in groups)
            mean_length = self.denominator(groups) / num_episodes
            return kind(**options, guidance_weight=self.guidance_weight, mean_length=mean_length)
        return kind(**options, guidance_weight=self.guidance_weight * self._denominator_of_a_token(groups))

    def _denominator_of_a_token(self, groups: Sequence[SampledGroup]) -> float:
        """What takes the step's denominator out of guidance and puts Z in: 1 under a token mean."""
        if self.config.training.loss_aggregation == "token":
            return 1.0
        return self.denominator(groups) / num_tokens(groups)

    def check_metrics(self, metrics: Metrics) -> Metrics:
        """Add `guidance/weight`, `guidance/unmapped` and `guidance/unguided_episodes`.

        Raises:
            RuntimeError: the policy's vocabulary lacks more than `guidance.max_unmapped_share` of the teacher's tokens.
        """
        metrics = super().check_metrics(metrics) | {"guidance/weight": self.guidance_weight}
        if "guidance/coverage" not in metrics:
            return metrics
        unguided = [group for group in self.sampled if "teacher" not in group.guidance]
        unguided_share = num_tokens(unguided) / num_tokens(self.sampled)
        unmapped = max(0.0, 1.0 - unguided_share - metrics["guidance/coverage"])
        limit = self.config.guidance.max_unmapped_share
        if unmapped > limit:
            raise RuntimeError(
                f"{unmapped:.1%} of the teacher's tokens have no id in the policy's vocabulary, above "
                f"guidance.max_unmapped_share = {limit:g}: choose a teacher with the policy's tokenizer, set "
                "guidance.unmapped: first_piece, or raise the limit"
            )
        return metrics | {
            "guidance/unmapped": unmapped,
            "guidance/unguided_episodes": sum(len(group.infos) for group in unguided)
            / sum(len(group.infos) for group in self.sampled),
        }


def num_tokens(groups: Sequence[SampledGroup]) -> int:
    """The policy's tokens in these groups."""
    return sum(group.num_policy_tokens for group in groups)
