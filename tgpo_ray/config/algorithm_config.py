"""AlgorithmConfig, which reads, writes, checks and resolves a run's sections, and the RLlib-style builder."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from tgpo_ray.config.env_sections import EnvConfig
from tgpo_ray.config.errors import ConfigError, problems_of
from tgpo_ray.config.evaluation_section import with_sets
from tgpo_ray.config.file_rules import file_rules, models_are_there
from tgpo_ray.config.loading import apply_override, dump_yaml, load_file, parse_override, unshared
from tgpo_ray.config.registry import import_object, known_algorithms, resolve_algorithm
from tgpo_ray.config.run_config import RunConfig
from tgpo_ray.config.sections import bind

if TYPE_CHECKING:
    from ray.train import Result
from tgpo_ray.config.sugar import SHORTHAND, desugar, expand_path

TRAINABLE = "tgpo_ray.driver:trainable"  # a path, because the driver stands on this package


def named(name: str) -> Any:
    """Returns the field `algorithm` of a method's configuration, with the method's name as its default."""
    return Field(default=name, description=f"{name}, or an import path as my_pkg.mod:MyConfig.")


def section(model: type[BaseModel], description: str) -> Any:
    """Returns the field of a section, with the defaults of `model` where the file has no section."""
    return Field(default_factory=model, description=description)


class AlgorithmConfig(RunConfig):
    """The configuration of one run. An algorithm subclasses it, as `RunConfig` describes."""

    @model_validator(mode="before")
    @classmethod
    def _accept_shorthand(cls, data: Any) -> Any:
        return desugar(data, cls)[0] if isinstance(data, dict) else data

    # ---- reading and writing

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Iterable[str] = ()) -> Self:
        """Returns the config in a YAML file, of the class that its `algorithm` names.

        Args:
            overrides: `a.b.c=value`, as `training.lr=1e-4`, `envs.0.kwargs.path=x.jsonl`, `teacher.path=...`.
        """
        data = load_file(path)
        if data.get("name") is None:
            data["name"] = Path(path).stem
        try:
            return cls.from_dict(with_sets(data, Path(path).parent), overrides)
        except ConfigError as error:
            raise ConfigError(error.problems, str(path)) from None

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], overrides: Iterable[str] = ()) -> Self:
        """Returns the config in a mapping as YAML holds it; ConfigError has a line for each problem."""
        changes = [parse_override(override) for override in overrides]
        data = with_sets({key: unshared(value) for key, value in data.items()})
        for parts, value in changes:  # before the others, because it decides their meaning
            if parts == ["algorithm"]:
                data["algorithm"] = value
        model = cls._class_for(data)
        try:
            full, words = desugar(data, model)
        except ValueError as error:
            raise ConfigError([str(error)]) from None
        for parts, value in changes:
            apply_override(full, expand_path(parts, model), value)
        full = with_sets(full)  # where an override names a file of sets
        problems = foreign_sections(full, model)
        try:
            config = model.model_validate({key: full[key] for key in full if key not in problems})
        except ValidationError as error:
            raise ConfigError([*problems.values(), *problems_of(error, model, words=words)]) from None
        if problems:
            raise ConfigError(problems.values())
        return config

    @classmethod
    def _class_for(cls, data: Mapping[str, Any]) -> type[Self]:
        """Returns the class that `algorithm` names, which must be this one or derived from it."""
        if data.get("algorithm") is None:
            if cls is AlgorithmConfig:
                raise ConfigError([f"algorithm: required; known: {', '.join(sorted(known_algorithms()))}"])
            return cls
        model = resolve_algorithm(data["algorithm"])
        if not issubclass(model, cls):
            name = data["algorithm"]
            raise ConfigError([f"algorithm: {name} is a {model.__name__}, not a {cls.__name__}: load it with that"])
        return model

    def to_dict(self) -> dict[str, Any]:
        """Returns plain dicts, lists, numbers and text; `from_dict` reads them back to an equal config."""
        data = self.model_dump(mode="json")
        data["algorithm"] = self.algorithm_path
        return data

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Returns the whole config as YAML, defaults included, and writes it to `path` where one is given."""
        text = dump_yaml(self.to_dict())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    # ---- the builder; a section is called to set its values: config.training(lr=1e-4).learners(num_learners=2)

    @model_validator(mode="after")
    def _bind_at_assignment(self) -> Self:
        return self._bind_sections()

    def _bind_sections(self) -> Self:
        """Tells each section its owner, at construction, at an assignment and in a copy."""
        for name, value in self.sections():
            bind(value, self, name)
        return self

    def __deepcopy__(self, memo: dict[int, Any] | None = None) -> Self:
        return super().__deepcopy__(memo)._bind_sections()  # the copies' owner is the copy

    def __copy__(self) -> Self:
        return self.__deepcopy__()  # a section has one owner, so no two configurations share one

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        self._bind_sections()

    def models(self, **values: Any) -> Self:
        """Sets keys of `model`."""
        return self.model(**values)

    def environment(self, id: str, *, env_config: Mapping[str, Any] | None = None, **values: Any) -> Self:
        """Makes `id` the only training environment, with the arguments `env_config`, and weight, teacher, name."""
        self.envs = []
        return self.add_environment(id, env_config=env_config, **values)

    def add_environment(self, id: str, *, env_config: Mapping[str, Any] | None = None, **values: Any) -> Self:
        """Adds a training environment beside those that are there."""
        entry = {"id": id, "kwargs": dict(env_config or {}), **values}
        try:
            self.envs = [*self.envs, EnvConfig.model_validate(entry)]
        except ValidationError as error:
            raise ConfigError(problems_of(error, type(self), prefix=("envs", len(self.envs)))) from None
        return self

    # ---- use

    def rules(self) -> Iterator[str]:
        """Yields a line for each broken rule between keys. A method of your own adds to `super().rules()`."""
        for _, value in self.sections():
            yield from value.rules(self)
        if self.needs_envs and not self.envs:
            example = "env: {id: tgpo/Math-v0, kwargs: {path: problems.jsonl}}"
            yield f"envs: required: name a training environment, as {example}"

    def facts(self) -> dict[str, str]:
        """Returns what `tgpo-ray plan` prints of an iteration, as text by name."""
        return {name: text for _, value in self.sections() for name, text in value.facts(self).items()}

    def problems(self, *, files: bool = True) -> list[str]:
        """Returns a line for each rule between keys that is broken, with `files` also those of model folders."""
        return [*self.rules(), *(file_rules(self) if files else ())]

    def check(self, *, files: bool = True) -> Self:
        """Returns itself; ConfigError where a rule is broken or, with `files`, a model is not whole. Needs no Ray."""
        problems = self.problems(files=files) or (list(models_are_there(self)) if files else [])
        if problems:
            raise ConfigError(problems)
        return self

    def resolved(self, *, gpus: bool) -> Self:
        """Returns a copy with a value for each null and `auto`, for a cluster with GPUs or without."""
        config = self.model_copy(deep=True)
        config.algorithm = self.algorithm_path
        config.name = self.name or config.algorithm.split(":")[-1].lower()
        for _, value in config.sections():
            value.fill_in(config, gpus=gpus)
        return config

    def get_algo_class(self) -> type:
        """Returns the Algorithm class; ConfigError where the config class names none."""
        algo_class = self.algo_class
        if algo_class is None:
            raise ConfigError([f"algorithm: {type(self).__name__} names no algo_class"])
        return import_object(algo_class) if isinstance(algo_class, str) else algo_class

    def build_algo(self, **groups: Any) -> Any:
        """Returns the Algorithm with running actors. `groups` are ready ones, e.g. `env_runners=`, `teachers=`."""
        return self.check().get_algo_class()(self, **groups)

    def fit(self) -> Result:
        """Returns the `ray.train.Result` of the whole job, after running it."""
        return self.check().get_algo_class().fit(self)

    def trainable(self) -> Callable[[dict[str, Any]], None]:
        """Returns a trainable for `ray.tune.Tuner`; keys of its `param_space` are dotted keys of this configuration.

        Each trial is a whole run in a process of its own. See `driver.trainable`.
        """
        return import_object(TRAINABLE)(self)


def foreign_sections(data: Mapping[str, Any], model: type[RunConfig]) -> dict[str, str]:
    """Returns a message for each section that other algorithms have and `model` lacks."""
    messages = {}
    for key in data:
        full_key = str(SHORTHAND.get(key, (key,))[0])
        if full_key in model.model_fields:
            continue
        owners = [name for name in sorted(known_algorithms()) if full_key in resolve_algorithm(name).model_fields]
        if owners:
            name = data.get("algorithm") or model.__name__
            messages[key] = f"{key}: {name} has no such section; algorithms that have it: {', '.join(owners)}"
    return messages
