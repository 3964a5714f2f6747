"""`evaluation`: the held-out sets, and the file that several runs may take them from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from tgpo_ray.config.env_sections import EnvConfig, EvaluationEnvConfig
from tgpo_ray.config.errors import ConfigError
from tgpo_ray.config.loading import load_file
from tgpo_ray.config.sampling_rules import greedy_problems, temperature_problems
from tgpo_ray.config.sections import RunView, Section
from tgpo_ray.config.values import NonNegativeFloat, Positive


class EvaluationConfig(Section):
    """`evaluation`: held-out sets, on the runners' engines."""

    every: Positive | None = Field(default=None, description="Iterations between evaluations; null: at the ends only.")
    at_start: bool = Field(default=True, description="Evaluate before the first iteration.")
    at_end: bool = Field(default=True, description="Evaluate after the last iteration.")
    temperature: NonNegativeFloat = Field(
        default=0.6, description="Sampling temperature; 0: greedy, with num_samples 1."
    )
    num_samples: Positive = Field(
        default=1, description="Responses to each problem (n of avg@n), where a set has no number of its own."
    )
    max_problems: Positive | None = Field(default=None, description="Problems of each set; null: all.")
    on_failure: Literal["continue", "end"] = Field(
        default="continue",
        description="An evaluation that raises is counted and shown; end: the run ends too, after a checkpoint.",
    )
    kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of every held-out environment, in place of its own."
    )
    envs: list[EvaluationEnvConfig] = Field(
        default_factory=list,
        description="The held-out sets, or {from: a YAML file with evaluation.envs, sets: [names, of them]}.",
    )

    @field_validator("envs", mode="before")
    @classmethod
    def _of_training(cls, envs: object) -> object:
        """A training environment can be held out as it is; its share and its teacher mean nothing here."""
        if not isinstance(envs, list):
            return envs
        return [env.model_dump(include={"id", "name", "kwargs"}) if isinstance(env, EnvConfig) else env for env in envs]

    def samples_of(self, env: EvaluationEnvConfig) -> int:
        """Responses to each problem of this set."""
        return env.num_samples or self.num_samples

    def writes(self, metric: str) -> bool:
        """Returns whether a metric is no evaluation's, or one of these sets: several sets have figures of their own."""
        if not metric.startswith("evaluation/"):
            return True
        label = metric.removeprefix("evaluation/").rpartition("/")[0]
        own = [env.label for env in self.envs] if len(self.envs) > 1 else []
        return bool(self.envs) and (not label or label in own)

    def rules(self, run: RunView) -> Iterator[str]:
        key = "evaluation.temperature"
        yield from temperature_problems(key, self.temperature)
        yield from greedy_problems(key, self.temperature, "evaluation.num_samples", self.num_samples)
        for i, env in enumerate(self.envs):
            own = f"evaluation.envs.{i}.num_samples"
            yield from greedy_problems(key, self.temperature, own, env.num_samples or 1)
        if self.every is not None and not self.envs:
            yield f"evaluation.envs: required with evaluation.every {self.every}: name a held-out set"
        labels = [env.label for env in self.envs]
        for index, label in enumerate(labels):
            if label in labels[:index]:
                yield f"evaluation.envs.{index}.name: two sets are called {label!r} in the metrics; give one a name"

    def facts(self, run: RunView) -> dict[str, str]:
        times = ["at the start"] * self.at_start + ["at the end"] * self.at_end
        if self.every is not None:
            times.insert(1 if self.at_start else 0, f"every {self.every} iterations")
        labels = ", ".join(env.label for env in self.envs)
        return {"evaluation": f"{labels}: {', '.join(times) or 'never'}"} if labels else {}


def with_sets(data: Mapping[str, Any], folder: Path | None = None) -> dict[str, Any]:
    """Returns a file's sections with the list that `evaluation: {envs: {from: FILE, sets: [NAME, ...]}}` stands for.

    Args:
        folder: where FILE is looked for first, beside the file that names it; then in the working folder.

    Raises:
        ConfigError: another key than the two, a file without `evaluation.envs`, or a name that is none of its sets.
    """
    evaluation = data.get("evaluation")
    source = evaluation.get("envs") if isinstance(evaluation, Mapping) else None
    if not isinstance(source, Mapping) or "from" not in source:
        return dict(data)
    assert isinstance(evaluation, Mapping)
    if unknown := sorted(source.keys() - {"from", "sets"}):
        raise ConfigError([f"evaluation.envs.{unknown[0]}: unknown key; there are `from` (a YAML file) and `sets`"])
    return {**data, "evaluation": {**evaluation, "envs": _sets_of(source["from"], source.get("sets"), folder)}}


def _sets_of(path: object, names: object, folder: Path | None) -> list[dict[str, Any]]:
    if not isinstance(path, str):
        raise ConfigError([f"evaluation.envs.from: expected the path of a YAML file, got {path!r}"])
    beside = folder / path if folder is not None else Path(path)
    try:
        content = load_file(beside if beside.is_file() else path).get("evaluation")
    except ConfigError as error:
        raise ConfigError([f"evaluation.envs.from: {error}"]) from None
    listed = content.get("envs") if isinstance(content, dict) else None
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise ConfigError([f"evaluation.envs.from: {path} has no list `evaluation.envs`"])
    # its own number of samples goes with the set
    number = content.get("num_samples") if isinstance(content, dict) else None
    sets = [{"num_samples": number, **entry} if number is not None else dict(entry) for entry in listed]
    if names is None:
        return sets
    known = {str(entry.get("name") or entry.get("id")): entry for entry in sets}
    missing = [name for name in names if name not in known] if isinstance(names, list) else [names]
    if missing:
        shown = missing[0]
        raise ConfigError([f"evaluation.envs.sets: {shown!r} is none of the sets of {path}: {', '.join(known)}"])
    assert isinstance(names, list)
    return [known[name] for name in names]
