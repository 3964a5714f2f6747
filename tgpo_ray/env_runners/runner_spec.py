"""The settings of a runner, and what it says of a finished group."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

from tgpo_ray.env_runners.env_spec import EnvSpec
from tgpo_ray.episode import EpisodeInfo, TaskKey
from tgpo_ray.models import EngineSpec


@dataclass(frozen=True)
class EnvRunnerSpec:
    """The settings of one runner."""

    engine: EngineSpec
    envs: tuple[EnvSpec, ...]  # training environments first, then those for evaluation
    max_prompt_tokens: int
    overlong_prompts: Literal["refuse", "drop"] = "refuse"
    num_verifier_threads: int = 1
    gpu: bool = False
    frozen: bool = False  # sample from the weights on disk, without a sync
    seed_by: Literal["request", "runner"] = "request"


class Finished(NamedTuple):
    """What the driver reads of a finished group."""

    key: TaskKey
    infos: tuple[EpisodeInfo, ...]  # none where the prompt was too long, so that nothing was sampled
    busy_s: float  # of the engine, since the runner's last finished group
