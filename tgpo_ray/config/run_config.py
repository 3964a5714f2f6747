"""RunConfig: the sections that all algorithms share, as plain data."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from tgpo_ray.config.run_sections import (
    CheckpointingConfig,
    EvaluationConfig,
    FaultToleranceConfig,
    ReferenceConfig,
    ReportingConfig,
    TeacherTermConfig,
    TrainingConfig,
)
from tgpo_ray.config.sections import (
    EnvConfig,
    EnvRunnersConfig,
    LearnersConfig,
    ModelConfig,
    RayConfig,
    TeachersConfig,
)
from tgpo_ray.config.values import NonNegative, Strict


class RunConfig(Strict):
    """What one run is made of. `AlgorithmConfig` reads it, checks it and builds from it.

    Class attributes for subclasses:
        algo_class: the Algorithm, as a class or as `module:Name`.
        needs_envs: the algorithm samples from environments.
        needs_teacher: `teachers` must hold the teacher of each environment.
        group_relative: advantages compare the episodes of a group, so a group of one has none.
        learner_groups: what each learner group holds; all are placed as `learners` says.
    """

    algo_class: ClassVar[type | str | None] = None
    needs_envs: ClassVar[bool] = True
    needs_teacher: ClassVar[bool] = False
    group_relative: ClassVar[bool] = True
    learner_groups: ClassVar[tuple[str, ...]] = ("learner",)

    algorithm: str = Field(default="", description="Name, or import path as my_pkg.mod:MyConfig.")
    name: str | None = Field(default=None, description="Name of the run's folder; null: that of the YAML file.")
    seed: NonNegative = Field(default=0, description="Seed of problems, sampling and training.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="The policy.")
    envs: list[EnvConfig] = Field(default_factory=list, description="Training environments; `env` is a list of one.")
    env_runners: EnvRunnersConfig = Field(default_factory=EnvRunnersConfig, description="Engines with environments.")
    learners: LearnersConfig = Field(default_factory=LearnersConfig, description="Weights and optimizer.")
    training: TrainingConfig = Field(default_factory=TrainingConfig, description="Batch shape, optimizer, loss.")
    reference: ReferenceConfig = Field(default_factory=ReferenceConfig, description="The frozen model of a KL term.")
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="Held-out sets.")
    checkpointing: CheckpointingConfig = Field(default_factory=CheckpointingConfig, description="The run's folder.")
    fault_tolerance: FaultToleranceConfig = Field(
        default_factory=FaultToleranceConfig, description="How much may break before the run fails."
    )
    reporting: ReportingConfig = Field(default_factory=ReportingConfig, description="Metrics and samples.")
    ray: RayConfig = Field(default_factory=RayConfig, description="The cluster.")

    @property
    def uses_reference(self) -> bool:
        """Whether a frozen reference scores the episodes: the loss has a KL term."""
        return getattr(self.training, "kl_weight", 0.0) > 0.0

    def teacher_pools(self) -> TeachersConfig:
        """Returns the teachers by name; none where the method has none."""
        from tgpo_ray.config.resolving import teachers_of

        return teachers_of(self)

    def longest_episode(self) -> int:
        """Returns the most tokens that one trained sequence can have, prompt and response."""
        from tgpo_ray.config.resolving import longest_episode

        return longest_episode(self)

    @property
    def unmapped(self) -> Literal["mask", "first_piece"]:
        """What becomes of a teacher's token that the policy lacks."""
        terms = self._teacher_terms()
        return terms[0].unmapped if terms else "mask"

    @property
    def max_unmapped_share(self) -> float:
        """Share of a teacher's tokens that the policy may lack; 1.0 where the method has no such limit."""
        terms = self._teacher_terms()
        return terms[0].max_unmapped_share if terms else 1.0

    def _teacher_terms(self) -> list[TeacherTermConfig]:
        return [section for section in vars(self).values() if isinstance(section, TeacherTermConfig)]

    @property
    def algorithm_path(self) -> str:
        """`algorithm`, or the import path of this class where the file names none."""
        return self.algorithm or f"{type(self).__module__}:{type(self).__qualname__}"
