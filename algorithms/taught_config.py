"""The sections of every method with a teacher: `teachers`, and `guidance` with a weight over time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticKnownError

from tgpo_ray.config import (
    NonNegativeFloat,
    OnPolicyConfig,
    RunView,
    Section,
    Share,
    TeachersConfig,
    is_metric,
    section,
)

if TYPE_CHECKING:
    from tgpo_ray.guidance import Schedule


# A method whose teacher only scores the policy's tokens, or sends hidden states, lists these keys as `unread`.
UNMAPPED = ("unmapped", "max_unmapped_share")


class TeacherTermConfig(Section):
    """`guidance` of every method: a weight over time, and a rule for tokens that the policy lacks."""

    unread: ClassVar[tuple[str, ...]] = ()  # inherited keys that mean nothing to the method
    schedules: ClassVar[tuple[str, ...]] = ("linear", "constant", "cosine", "plateau")

    weight: NonNegativeFloat = Field(default=2e-3, description="w at the first iteration.")
    decay: NonNegativeFloat = Field(default=0.0, description="Linear schedule: what w loses at each iteration.")
    minimum: NonNegativeFloat = Field(
        default=0.0, description="Linear schedule: least w; at w = 0 the teacher is not called."
    )
    schedule: str = Field(
        default="linear",
        description="linear: minus decay each iteration; constant; cosine: to 0 over num_iterations; plateau: falls "
        "when the held-out reward stops rising; balanced (TGPO): holds its gradient's ratio to the policy loss's; or a "
        "function of your own as my_pkg.mod:my_schedule.",
    )
    schedule_options: dict[str, Any] = Field(
        default_factory=dict, description="Options of schedule plateau, balanced, or of your own."
    )
    unmapped: Literal["mask", "first_piece"] = Field(
        default="mask", description="A teacher token that the policy lacks: no guidance there, or its first piece."
    )
    max_unmapped_share: Share = Field(default=0.05, description="The run fails above this share of unmapped tokens.")

    @field_validator("schedule")
    @classmethod
    def _is_known(cls, name: str) -> str:
        if name in cls.schedules or ":" in name:
            return name
        expected = ", ".join(map(repr, cls.schedules)) + " or an import path such as 'my_pkg.mod:my_schedule'"
        raise PydanticKnownError("literal_error", {"expected": expected})

    def build_schedule(self, num_iterations: int) -> Schedule:
        """Returns the callable step -> w, the step counted from 0.

        Raises:
            ValueError: an option is wrong, or the function cannot be imported. The message names the key.
        """
        from .weight_schedules import build_schedule  # imports torch

        return build_schedule(self, num_iterations)

    def rules(self, run: RunView) -> Iterator[str]:
        try:
            self.build_schedule(max(1, run.num_iterations or 0))
        except ValueError as error:
            yield str(error)
        for key, value in (("decay", self.decay), ("minimum", self.minimum)):
            if value > 0 and self.schedule != "linear":
                yield f"guidance.{key}: belongs to schedule linear, got {value:g} with {self.schedule}; write 0"
        needs = f"a method that learns the teacher's own tokens, got {run.algorithm_path}"
        yield from self.without_use(*self.unread, needs=needs)

    def facts(self, run: RunView) -> dict[str, str]:
        return {"teacher": self.last_call(run.num_iterations or 0)}

    def last_call(self, iterations: int) -> str:
        """Returns the sentence that says when the teacher is called for the last time.

        The schedule is 0 from step t on, counted from 0. So the last of the iterations 1..n that calls it is t.
        """
        step = self.build_schedule(iterations).last_step()
        if step == 0:
            return "never called: guidance.weight is 0"
        if step is None or step >= iterations:
            return f"called in all {iterations} iterations"
        return f"last called in iteration {step} of {iterations}; then w = 0 and its resources return"


class TaughtConfig(OnPolicyConfig):
    """Configuration of a method with teachers. A subclass narrows `guidance`."""

    teachers: TeachersConfig = section(TeachersConfig, "Teacher pools by name; `teacher` is a map of one.")
    guidance: TeacherTermConfig = section(TeacherTermConfig, "The teacher's term of the loss.")

    def teacher_pools(self) -> TeachersConfig:
        return self.teachers if self.needs_teachers else TeachersConfig()

    @property
    def needs_teachers(self) -> bool:
        """Whether a run starts its teachers. One whose teacher's tokens are in a file does not."""
        return True

    @property
    def unmapped(self) -> Literal["mask", "first_piece"]:
        return self.guidance.unmapped

    @property
    def max_unmapped_share(self) -> float:
        return self.guidance.max_unmapped_share

    def rules(self) -> Iterator[str]:
        yield from super().rules()
        if self.guidance.schedule == "plateau" and not (self.evaluation.envs and self.evaluation.every):
            yield "guidance.schedule: plateau follows evaluations: name evaluation.envs, and set evaluation.every"
        metric = self.guidance.schedule_options.get("metric", "reward")
        if self.guidance.schedule == "plateau" and not (is_metric(str(metric)) and self.evaluation.writes(metric)):
            yield (
                f"guidance.schedule_options.metric: no run with these evaluation.envs writes {metric!r}: take one of "
                "docs/metrics.md, as evaluation/accuracy"
            )
        if not self.needs_teachers:
            return
        names = [name for name, _ in self.teachers.items()]
        if not names:
            yield f"teachers: required: {self.algorithm_path} learns from one; write teacher: {{path: folder or id}}"
            return
        for index, env in enumerate(self.envs):
            if env.teacher not in names:
                yield f"envs.{index}.teacher: no teacher named {env.teacher!r}; `teachers` has {', '.join(names)}"
