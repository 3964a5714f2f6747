"""Reinforcement learning with teacher guidance for reasoning models, on Ray.

The public names are resolved when they are first used (PEP 562), so that `import tgpo_ray` loads neither torch nor Ray
nor vLLM. Algorithms live in `tgpo_ray.algorithms`, environments in `tgpo_ray.envs`.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tgpo_ray.algorithm import Algorithm
    from tgpo_ray.config import AlgorithmConfig
    from tgpo_ray.env_runner_group import EnvRunnerGroup
    from tgpo_ray.episode import Episode, EpisodeGroup, EpisodeInfo, Guidance
    from tgpo_ray.guidance import ConstantWeight, CosineDecay, LinearDecay, guidance_advantage, guidance_loss
    from tgpo_ray.learner_group import LearnerGroup
    from tgpo_ray.teacher_group import TeacherGroup

__version__ = "0.1.0"

__all__ = [
    "Algorithm",
    "AlgorithmConfig",
    "ConstantWeight",
    "CosineDecay",
    "EnvRunnerGroup",
    "Episode",
    "EpisodeGroup",
    "EpisodeInfo",
    "Guidance",
    "LearnerGroup",
    "LinearDecay",
    "TeacherGroup",
    "__version__",
    "guidance_advantage",
    "guidance_loss",
]

_MODULE_OF = {
    "Algorithm": "tgpo_ray.algorithm",
    "AlgorithmConfig": "tgpo_ray.config",
    "ConstantWeight": "tgpo_ray.guidance",
    "CosineDecay": "tgpo_ray.guidance",
    "EnvRunnerGroup": "tgpo_ray.env_runner_group",
    "Episode": "tgpo_ray.episode",
    "EpisodeGroup": "tgpo_ray.episode",
    "EpisodeInfo": "tgpo_ray.episode",
    "Guidance": "tgpo_ray.episode",
    "LearnerGroup": "tgpo_ray.learner_group",
    "LinearDecay": "tgpo_ray.guidance",
    "TeacherGroup": "tgpo_ray.teacher_group",
    "guidance_advantage": "tgpo_ray.guidance",
    "guidance_loss": "tgpo_ray.guidance",
}


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULE_OF[name]), name)
    globals()[name] = value  # the next access finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
