"""Reinforcement learning with teacher guidance for reasoning models, on Ray.

A name is imported when it is first used, so that `import tgpo_ray` loads neither torch nor Ray nor vLLM. Algorithms
live in `tgpo_ray.algorithms`, environments in `tgpo_ray.envs`.
"""

from typing import TYPE_CHECKING

import lazy_loader

if TYPE_CHECKING:
    from tgpo_ray.config import AlgorithmConfig
    from tgpo_ray.driver import Algorithm
    from tgpo_ray.env_runners import EnvRunnerGroup
    from tgpo_ray.episode import Episode, EpisodeGroup, EpisodeInfo, Guidance
    from tgpo_ray.guidance import ConstantWeight, CosineDecay, LinearDecay, guidance_advantage, guidance_loss
    from tgpo_ray.learners import LearnerGroup
    from tgpo_ray.teachers import TeacherGroup

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "config": ["AlgorithmConfig"],
        "driver": ["Algorithm"],
        "env_runners": ["EnvRunnerGroup"],
        "episode": ["Episode", "EpisodeGroup", "EpisodeInfo", "Guidance"],
        "guidance": ["ConstantWeight", "CosineDecay", "LinearDecay", "guidance_advantage", "guidance_loss"],
        "learners": ["LearnerGroup"],
        "teachers": ["TeacherGroup"],
    },
)
