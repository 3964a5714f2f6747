"""Strict YAML, the builder over the same models, and the rules between keys."""

from tgpo_ray.config.algorithm_config import AlgorithmConfig, named, section
from tgpo_ray.config.env_sections import EnvConfig, EnvRunnersConfig, EvaluationEnvConfig
from tgpo_ray.config.errors import ConfigError
from tgpo_ray.config.loading import dump_yaml, load_file, load_yaml
from tgpo_ray.config.lora_section import LoraConfig
from tgpo_ray.config.on_policy_config import OldLogprobs, OnPolicyConfig, TrainingConfig
from tgpo_ray.config.registry import import_object, known_algorithms, resolve_algorithm
from tgpo_ray.config.reporting_section import ReportingConfig
from tgpo_ray.config.resources import ActorDemand, check_resources, resource_plan
from tgpo_ray.config.run_config import RunConfig
from tgpo_ray.config.run_sections import (
    CheckpointingConfig,
    EvaluationConfig,
    FaultToleranceConfig,
    OptimizerConfig,
    RayConfig,
    ReferenceConfig,
    TraceFileConfig,
    WeightSyncConfig,
)
from tgpo_ray.config.sampling_rules import greedy_problems, temperature_problems
from tgpo_ray.config.schema import json_schema
from tgpo_ray.config.sections import LearnersConfig, ModelConfig, RunView, Section
from tgpo_ray.config.teacher_sections import TeacherConfig, TeachersConfig
from tgpo_ray.config.values import (
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Share,
    format_bytes,
    resolve_kv_cache,
)

__all__ = [
    "ActorDemand",
    "AlgorithmConfig",
    "CheckpointingConfig",
    "ConfigError",
    "EnvConfig",
    "EnvRunnersConfig",
    "EvaluationConfig",
    "EvaluationEnvConfig",
    "FaultToleranceConfig",
    "LearnersConfig",
    "LoraConfig",
    "ModelConfig",
    "NonNegative",
    "NonNegativeFloat",
    "OldLogprobs",
    "OnPolicyConfig",
    "OptimizerConfig",
    "Positive",
    "PositiveFloat",
    "RayConfig",
    "ReferenceConfig",
    "ReportingConfig",
    "RunConfig",
    "RunView",
    "Section",
    "Share",
    "TeacherConfig",
    "TeachersConfig",
    "TraceFileConfig",
    "TrainingConfig",
    "WeightSyncConfig",
    "check_resources",
    "dump_yaml",
    "format_bytes",
    "greedy_problems",
    "import_object",
    "json_schema",
    "known_algorithms",
    "load_file",
    "load_yaml",
    "named",
    "resolve_algorithm",
    "resolve_kv_cache",
    "resource_plan",
    "section",
    "temperature_problems",
]
