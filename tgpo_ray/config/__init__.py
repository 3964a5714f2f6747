"""The configuration of a run: strict YAML, the builder over the same models, and the rules between keys."""

from tgpo_ray.config.algorithm_config import AlgorithmConfig
from tgpo_ray.config.errors import ConfigError
from tgpo_ray.config.loading import dump_yaml, load_file, load_yaml
from tgpo_ray.config.registry import ALGORITHMS, import_object, resolve_algorithm
from tgpo_ray.config.resolving import longest_episode, resolve, teachers_of
from tgpo_ray.config.resources import Row, check_resources, resource_plan
from tgpo_ray.config.run_config import RunConfig
from tgpo_ray.config.run_sections import (
    CheckpointingConfig,
    EvaluationConfig,
    FaultToleranceConfig,
    GuidanceConfig,
    OldLogprobs,
    OptimizerConfig,
    ReferenceConfig,
    ReportingConfig,
    SFTDataConfig,
    SFTTrainingConfig,
    TeacherTermConfig,
    TraceFileConfig,
    TrainingConfig,
)
from tgpo_ray.config.schema import json_schema
from tgpo_ray.config.sections import (
    EnvConfig,
    EnvRunnersConfig,
    EvaluationEnvConfig,
    LearnersConfig,
    ModelConfig,
    RayConfig,
    RunView,
    TeacherConfig,
    TeachersConfig,
)
from tgpo_ray.config.values import (
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Section,
    Share,
    format_bytes,
)

__all__ = [
    "ALGORITHMS",
    "AlgorithmConfig",
    "CheckpointingConfig",
    "ConfigError",
    "EnvConfig",
    "EnvRunnersConfig",
    "EvaluationConfig",
    "EvaluationEnvConfig",
    "FaultToleranceConfig",
    "GuidanceConfig",
    "LearnersConfig",
    "ModelConfig",
    "NonNegative",
    "NonNegativeFloat",
    "OldLogprobs",
    "OptimizerConfig",
    "Positive",
    "PositiveFloat",
    "RayConfig",
    "ReferenceConfig",
    "ReportingConfig",
    "Row",
    "RunConfig",
    "RunView",
    "SFTDataConfig",
    "SFTTrainingConfig",
    "Section",
    "Share",
    "TeacherConfig",
    "TeacherTermConfig",
    "TeachersConfig",
    "TraceFileConfig",
    "TrainingConfig",
    "check_resources",
    "dump_yaml",
    "format_bytes",
    "import_object",
    "json_schema",
    "load_file",
    "load_yaml",
    "longest_episode",
    "resolve",
    "resolve_algorithm",
    "resource_plan",
    "teachers_of",
]
