"""RunConfig, the sections that all algorithms share, with the properties that a method may override."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import Field

from tgpo_ray.config.env_sections import EnvConfig, EnvRunnersConfig
from tgpo_ray.config.evaluation_section import EvaluationConfig
from tgpo_ray.config.reporting_section import ReportingConfig
from tgpo_ray.config.run_sections import (
    CheckpointingConfig,
    FaultToleranceConfig,
    OptimizerConfig,
    RayConfig,
    ReferenceConfig,
    WeightSyncConfig,
)
from tgpo_ray.config.sections import LearnersConfig, ModelConfig, Section
from tgpo_ray.config.teacher_sections import TeachersConfig
from tgpo_ray.config.values import FolderName, Seed, Strict


class RunConfig(Strict):
    """The sections of one run. `AlgorithmConfig` reads them, checks them and builds from them.

    Class attributes for subclasses:
        algo_class: the Algorithm, as a class or as `module:Name`.
        needs_envs: the algorithm samples from environments.
        group_relative: advantages compare the episodes of a group, so a group of one has none.
        learner_groups: a name for each learner group. `learners` places them all.
        longest_episode_keys: the keys that `longest_episode` adds up, for messages.
    """

    algo_class: ClassVar[type | str | None] = None
    needs_envs: ClassVar[bool] = True
    group_relative: ClassVar[bool] = True
    learner_groups: ClassVar[tuple[str, ...]] = ("learner",)
    longest_episode_keys: ClassVar[str] = "max_prompt_tokens + max_response_tokens"

    algorithm: str = Field(default="", description="Name, or import path as my_pkg.mod:MyConfig.")
    name: FolderName | None = Field(default=None, description="Name of the run's folder; null: that of the YAML file.")
    seed: Seed = Field(default=0, description="Seed of problems, sampling and training, at most 2^32 - 1.")
    model: ModelConfig = Field(default_factory=ModelConfig, description="The policy.")
    envs: list[EnvConfig] = Field(default_factory=list, description="Training environments; `env` is a list of one.")
    env_runners: EnvRunnersConfig = Field(default_factory=EnvRunnersConfig, description="Engines with environments.")
    learners: LearnersConfig = Field(default_factory=LearnersConfig, description="Weights and optimizer.")
    training: OptimizerConfig = Field(default_factory=OptimizerConfig, description="Optimizer.")
    reference: ReferenceConfig = Field(default_factory=ReferenceConfig, description="The frozen model of a KL term.")
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig, description="Held-out sets.")
    # after the runners and the learners: `auto` depends on their GPUs
    weight_sync: WeightSyncConfig = Field(default_factory=WeightSyncConfig, description="Learners to runners.")
    checkpointing: CheckpointingConfig = Field(default_factory=CheckpointingConfig, description="The run's folder.")
    fault_tolerance: FaultToleranceConfig = Field(
        default_factory=FaultToleranceConfig, description="How much may break before the run fails."
    )
    reporting: ReportingConfig = Field(default_factory=ReportingConfig, description="Metrics and samples.")
    ray: RayConfig = Field(default_factory=RayConfig, description="The cluster.")

    @property
    def algorithm_path(self) -> str:
        """`algorithm`, or the import path of this class if the file names none."""
        return self.algorithm or f"{type(self).__module__}:{type(self).__qualname__}"

    @property
    def num_iterations(self) -> int | None:
        """Iterations of the run, None where the data decide."""
        return self.training.num_iterations

    def sections(self) -> Iterator[tuple[str, Section | TeachersConfig]]:
        """Yields the name and the value of every section, in the order of the fields."""
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, Section | TeachersConfig):
                yield name, value

    # ---- the parts that depend on the method: override these

    @property
    def syncs_later(self) -> bool:
        """Whether runners take weights at a time of their own, while the learners go on."""
        return False

    @property
    def uses_reference(self) -> bool:
        """Whether a frozen reference scores the episodes, for a KL term of the loss."""
        return self.training.uses_reference

    @property
    def starts_reference(self) -> bool:
        """Whether the reference has actors of its own. Learners with adapters have its weights, frozen."""
        return self.uses_reference and (self.model.lora is None or self.reference.path is not None)

    def teacher_pools(self) -> TeachersConfig:
        """Returns the teachers by name, none by default."""
        return TeachersConfig()

    @property
    def unmapped(self) -> Literal["mask", "first_piece"]:
        """The rule for a teacher's token that the policy lacks."""
        return "mask"

    @property
    def max_unmapped_share(self) -> float:
        """Share of a teacher's tokens that the policy may lack, 1.0 by default."""
        return 1.0

    def longest_episode(self) -> int:
        """Returns the most tokens that one trained sequence can have, prompt and response."""
        return self.env_runners.max_prompt_tokens + self.env_runners.max_response_tokens
