"""The keys of `guidance` that say where guidance counts, and what else the teacher is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any, Literal, cast

from pydantic import AfterValidator, Field
from pydantic_core import PydanticKnownError

from tgpo_ray.config import RunView, import_object
from tgpo_ray.guidance import GATES, Gate

from .taught_config import TeacherTermConfig

NAMES = ("none", *GATES)
DIAGNOSTIC_TOP_K = 20  # the teacher's tokens of `diagnostics: full`
DIAGNOSTICS = {
    "none": (),
    "light": ("teacher.teacher_logprobs",),
    "full": ("teacher.teacher_logprobs", "teacher.topk_ids", "teacher.topk_logprobs"),
}
"""Value of `guidance.diagnostics` -> fields of the teacher that metrics read."""


def check_gate(name: str) -> str:
    """Returns the name of a gate, or an import path; an error of pydantic's for anything else."""
    if name in NAMES or ":" in name:
        return name
    expected = ", ".join(map(repr, NAMES)) + " or an import path such as 'my_pkg.mod:my_gate'"
    raise PydanticKnownError("literal_error", {"expected": expected})


class GateConfig(TeacherTermConfig):
    """`guidance` of a method whose guidance may have a gate."""

    gate: Annotated[str, AfterValidator(check_gate)] = Field(
        default="none",
        description="Where guidance counts: none (everywhere), failed, accuracy, disagreement, confidence, divergence, "
        "drift, truncation, or a function of your own as my_pkg.mod:my_gate.",
    )
    gate_options: dict[str, Any] = Field(
        default_factory=dict, description="The gate's own options: kappa, tau, band, budget or coverage."
    )
    diagnostics: Literal["none", "light", "full"] = Field(
        default="none",
        description="More figures of the teacher. light: log-ratio to it; full: also its confidence and top-20 "
        "agreement.",
    )

    def build_gate(self) -> Gate | None:
        """Returns the gate, or None without one.

        Raises:
            ValueError: the function cannot be imported, or an option is wrong. The message names the key.
        """
        if self.gate == "none":
            if self.gate_options:
                raise ValueError(f"guidance.gate_options: belong to a gate, got {self.gate_options} with gate none")
            return None
        try:
            function = GATES.get(self.gate) or import_object(self.gate)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"guidance.gate: cannot import {self.gate!r}: {error}") from error
        if not callable(function):
            raise ValueError(f"guidance.gate: {self.gate!r} is no function, got {type(function).__name__}")
        try:
            return Gate.of(cast(Callable[..., Any], function), self.gate_options)
        except ValueError as error:
            raise ValueError(f"guidance.gate_options: gate {self.gate}: {error}") from error

    def asked(self) -> set[str]:
        """Returns what gate and diagnostics ask the teacher for, beside the label."""
        gate = self.build_gate()
        asked = set() if gate is None else gate.wants
        if self.diagnostics != "none":
            asked |= {"logprob"}
        return asked | ({f"topk:{DIAGNOSTIC_TOP_K}"} if self.diagnostics == "full" else set())

    def rules(self, run: RunView) -> Iterator[str]:
        yield from super().rules(run)
        try:
            gate = self.build_gate()
        except ValueError as error:
            yield str(error)
            gate = None
        temperature = run.env_runners.temperature
        if temperature == 1.0:
            return
        for key, compares in (
            (f"gate: {self.gate}", gate is not None and gate.needs_ratio),
            (f"diagnostics: {self.diagnostics}", self.diagnostics != "none"),
        ):
            if compares:
                yield (
                    f"guidance.{key} needs env_runners.temperature 1.0, got {temperature:g}: the teacher's log-probs "
                    "are those of temperature 1, and their difference from the policy's at another has no meaning"
                )

    def facts(self, run: RunView) -> dict[str, str]:
        facts = super().facts(run)
        if self.gate == "none":
            return facts
        options = ", ".join(f"{name} {value}" for name, value in self.gate_options.items())
        return facts | {"gate": f"{self.gate}{f' ({options})' if options else ''}"}


def merged(wants: set[str]) -> set[str]:
    """Returns the wants with one `topk:k`, the largest: the likeliest of k are the first of them."""
    sizes = [int(name.removeprefix("topk:")) for name in wants if name.startswith("topk:")]
    return {name for name in wants if not name.startswith("topk:")} | ({f"topk:{max(sizes)}"} if sizes else set())
