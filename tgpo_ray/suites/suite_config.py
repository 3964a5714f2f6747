"""The configuration of a suite: sets, sampling and limits as a run has them, and the models to evaluate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field

from tgpo_ray.config import AlgorithmConfig, ConfigError, Section, named

NAME = "tgpo_ray.suites:SuiteConfig"
# The sections of a run that a suite reads. Of the others it has the defaults.
READ = {"algorithm", "name", "seed", "model", "env_runners", "evaluation", "fault_tolerance", "ray"}
# A server takes each of these from the model's folder where a request leaves it out, and an engine here does not.
PLAIN_SAMPLING = {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


class CandidateConfig(Section):
    """`candidates.<i>`: one model to evaluate, a folder, an id, or a server."""

    name: str | None = Field(default=None, description="Its name in the table; null: the last part of path or url.")
    path: str = Field(default="", description="Folder or Hugging Face id; with url: not needed.")
    url: str | None = Field(default=None, description="Address of an OpenAI-compatible server that has the model.")
    served_model: str | None = Field(default=None, description="url: the model's name there; null: the only one.")
    api_key_env: str | None = Field(default=None, description="url: environment variable with the server's key.")
    request: dict[str, Any] = Field(
        default_factory=lambda: dict(PLAIN_SAMPLING),
        description="url: keys of every request beside ours; {} for servers that refuse vLLM's.",
    )
    kwargs: dict[str, Any] = Field(
        default_factory=dict, description="Arguments of every environment for this model, as {prompt: chat}."
    )
    model: dict[str, Any] = Field(default_factory=dict, description="Keys of `model`, as hf_overrides.")
    env_runners: dict[str, Any] = Field(
        default_factory=dict, description="Keys of `env_runners` in place of the suite's, as tensor_parallel_size."
    )
    published: list[str] = Field(
        default_factory=list, description="Keys in `published` of figures that the table shows for comparison."
    )

    @property
    def label(self) -> str:
        """The name in the table and of its folder."""
        place = self.name or self.served_model or (self.url or self.path).rstrip("/").split("://")[-1].split("/")[-1]
        return place.replace("/", "_")


class PublishedConfig(Section):
    """`published.<name>`: figures that somebody else has published. The table has a column of their own for them."""

    source: str = Field(description="Where they are printed.", min_length=1)
    scores: dict[str, float] = Field(description="Accuracy in percent by the name of the set.")


class SuiteConfig(AlgorithmConfig):
    """The sets of a suite, and how every model answers them. There are no learners and no teachers."""

    needs_envs: ClassVar[bool] = False
    group_relative: ClassVar[bool] = False
    learner_groups: ClassVar[tuple[str, ...]] = ()

    algorithm: str = named(NAME)
    candidates: list[CandidateConfig] = Field(default_factory=list, description="The models; null: `model` alone.")
    means: dict[str, list[str]] = Field(
        default_factory=dict, description="Rows of the table that average over sets: name -> names of sets."
    )
    published: dict[str, PublishedConfig] = Field(default_factory=dict, description="Figures of others, by name.")

    def rules(self) -> Iterator[str]:
        """Yields a line for each broken rule of the parts that a suite reads."""
        # the candidates have paths of their own
        yield from (line for line in super().rules() if self.model.path or not line.startswith("model.path:"))
        if not self.evaluation.envs:
            yield "evaluation.envs: required here: name at least one held-out set"
        for section in sorted(self.model_fields_set - READ - {"candidates", "means", "published"}):
            if getattr(self, section) != type(self).model_fields[section].get_default(call_default_factory=True):
                yield f"{section}: a suite trains nothing, so that it has no such section: delete it"
        files = [set_file(env.label) for env in self.evaluation.envs]
        for i, env in enumerate(self.evaluation.envs):
            if set_file(env.label) in files[:i]:
                yield f"evaluation.envs.{i}.name: another set's answers are in {set_file(env.label)}, too; rename one"
        labels = [candidate.label for candidate in self.candidates]
        for i, candidate in enumerate(self.candidates):
            yield from self._candidate_rules(i, candidate, labels)

    def _candidate_rules(self, i: int, candidate: CandidateConfig, labels: list[str]) -> Iterator[str]:
        where = f"candidates.{i}"
        if not candidate.path and candidate.url is None:
            yield f"{where}: needs a path (folder or Hugging Face id) or a url"
        if candidate.url is not None and not candidate.url.startswith(("http://", "https://")):
            yield f"{where}.url: must begin with http:// or https://, got {candidate.url!r}"
        if candidate.label in (".", ".."):
            yield f"{where}.name: {candidate.label!r} is no name of a folder for its answers; give it another"
        if candidate.label in labels[:i]:
            yield f"{where}.name: two models are called {candidate.label!r} in the table; give one a name"
        for name in candidate.published:
            if name not in self.published:
                known = ", ".join(self.published) or "none"
                yield f"{where}.published: no figures are called {name!r} in `published`; there is: {known}"

    @classmethod
    def of_run(cls, config: AlgorithmConfig) -> Self:
        """Returns what evaluates a run's model as the run does, without its learners and teachers."""
        data = config.to_dict()
        kept = {name: data[name] for name in READ - {"algorithm"}}
        return cls.from_dict({**kept, "name": config.name or Path(config.algorithm_path).name})

    def of(self, candidate: CandidateConfig) -> Self:
        """Returns the configuration that evaluates one model.

        `model` holds for the model that it names. Others have only the keys of their own: another model's overrides
        would bend them.

        Raises:
            ConfigError: a key of the candidate is none of its section.
        """
        data = self.to_dict()
        own = data["model"] if candidate.path == self.model.path else {}
        data["model"] = {**own, **candidate.model, "path": candidate.path or "served"}
        data["env_runners"] |= candidate.env_runners
        data["evaluation"]["kwargs"] |= candidate.kwargs
        return type(self).from_dict({name: value for name, value in data.items() if name in {*READ, "means"}})

    def chosen(self, names: list[str]) -> list[CandidateConfig]:
        """Returns the candidates of a command line: names or paths of the file's, other paths and ids, or addresses.

        Without names it is all of the file, or `model` where the file lists none.
        """
        if not names:
            if not self.candidates and not self.model.path:
                raise ConfigError(["name at least one MODEL, or list `candidates` in the suite"])
            return self.candidates or [CandidateConfig(path=self.model.path)]
        listed = {key: it for it in self.candidates for key in (it.path, it.url, it.label) if key}
        return [listed.get(name) or _candidate(name) for name in names]


def set_file(label: str) -> str:
    """Returns the name of the file of answers to a set, in the model's folder."""
    return f"{label.replace('/', '_')}.jsonl"


def _candidate(name: str) -> CandidateConfig:
    url = name.removeprefix("url:")
    return CandidateConfig(url=url) if url.startswith(("http://", "https://")) else CandidateConfig(path=name)
