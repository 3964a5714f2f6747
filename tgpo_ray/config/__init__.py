"""Strict YAML, the builder over the same models, and the rules between keys."""

from tgpo_ray.config.algorithm_config import AlgorithmConfig, named, section
from tgpo_ray.config.env_sections import EnvConfig, EnvRunnersConfig, EvaluationEnvConfig
from tgpo_ray.config.errors import ConfigError, problems_of
from tgpo_ray.config.evaluation_section import EvaluationConfig, with_sets
from tgpo_ray.config.loading import apply_override, dump_yaml, load_file, load_yaml, parse_override, unshared
from tgpo_ray.config.lora_section import LoraConfig
from tgpo_ray.config.on_policy_config import OldLogprobs, OnPolicyConfig, TrainingConfig
from tgpo_ray.config.registry import import_object, known_algorithms, resolve_algorithm
from tgpo_ray.config.reporting_section import ReportingConfig
from tgpo_ray.config.resources import ENV_RUNNER, ActorDemand, check_resources, resource_plan, teacher_kind
from tgpo_ray.config.run_config import RunConfig
from tgpo_ray.config.run_sections import (
    CheckpointingConfig,
    FaultToleranceConfig,
    OptimizerConfig,
    RayConfig,
    ReferenceConfig,
    TraceFileConfig,
    WeightSyncConfig,
    is_metric,
)
from tgpo_ray.config.sampling_rules import greedy_problems, temperature_problems
from tgpo_ray.config.schema import json_schema
from tgpo_ray.config.sections import LearnersConfig, ModelConfig, RunView, Section
from tgpo_ray.config.sugar import desugar, expand_path
from tgpo_ray.config.teacher_sections import TeacherConfig, TeachersConfig
from tgpo_ray.config.values import (
    FolderName,
    NonNegative,
    NonNegativeFloat,
    Positive,
    PositiveFloat,
    Seed,
    Share,
    Strict,
    format_bytes,
    resolve_kv_cache,
)
from tgpo_ray.config.working_folder import JOB_VARIABLE

__all__ = [
    "ENV_RUNNER",
    "JOB_VARIABLE",
    "ActorDemand",
    "AlgorithmConfig",
    "CheckpointingConfig",
    "ConfigError",
    "EnvConfig",
    "EnvRunnersConfig",
    "EvaluationConfig",
    "EvaluationEnvConfig",
    "FaultToleranceConfig",
    "FolderName",
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
    "Seed",
    "Share",
    "Strict",
    "TeacherConfig",
    "TeachersConfig",
    "TraceFileConfig",
    "TrainingConfig",
    "WeightSyncConfig",
    "apply_override",
    "check_resources",
    "desugar",
    "dump_yaml",
    "expand_path",
    "format_bytes",
    "greedy_problems",
    "import_object",
    "is_metric",
    "json_schema",
    "known_algorithms",
    "load_file",
    "load_yaml",
    "named",
    "parse_override",
    "problems_of",
    "resolve_algorithm",
    "resolve_kv_cache",
    "resource_plan",
    "section",
    "teacher_kind",
    "temperature_problems",
    "unshared",
    "with_sets",
]
