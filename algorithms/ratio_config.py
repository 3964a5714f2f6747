"""The sections that the log-ratio methods share: RKL, OPDistill, KDRL, TrOPD, MiniLLM."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from tgpo_ray.config import RunView

from .grpo_config import GRPOTrainingConfig
from .taught_config import UNMAPPED, TeacherTermConfig


class RatioConfig(TeacherTermConfig):
    """`guidance` of the log-ratio methods."""

    unread = UNMAPPED

    mask_teacher_at_eos: bool = Field(
        default=True,
        description="Leave end-of-sequence tokens out of the teacher's term: a teacher that ends on another token than "
        "the policy would punish every stop.",
    )


class RatioTrainingConfig(GRPOTrainingConfig):
    """`training` of the log-ratio methods."""

    def rules(self, run: RunView) -> Iterator[str]:
        yield from super().rules(run)
        temperature = run.env_runners.temperature
        if temperature != 1.0:
            yield (
                f"env_runners.temperature: must be 1.0 here, got {temperature:g}: the teacher's log-probs are those of "
                "temperature 1, and a ratio with the policy's at another has no meaning"
            )
