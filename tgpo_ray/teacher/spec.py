"""What one teacher is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tgpo_ray.engine import EngineSpec


@dataclass(frozen=True)
class TeacherSpec:
    """What one teacher is made of; `policy_tokenizer` is the folder whose ids the episodes carry."""

    engine: EngineSpec
    policy_tokenizer: str
    prompt: Literal["policy", "own_template"] = "policy"
    unmapped: Literal["mask", "first_piece"] = "mask"
    gpu: bool = False
