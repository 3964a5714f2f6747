"""The runs of a study: each variant, with each combination of searched values, for each seed."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tgpo_ray.config import (
    AlgorithmConfig,
    ConfigError,
    RunConfig,
    desugar,
    expand_path,
    known_algorithms,
    load_file,
    resolve_algorithm,
    with_sets,
)
from tgpo_ray.studies.definition import SEED, Domain, StudyConfig
from tgpo_ray.studies.loading import filled


@dataclass(frozen=True, eq=False)
class Point:
    """One run of a study.

    Attributes:
        variant: name of the variant.
        values: what grid, search or pbt give, by key.
        seed: of the run.
        member: number within a population, whose members may begin with the same values.
    """

    variant: str
    seed: int
    values: Mapping[str, Any] = field(default_factory=dict)
    member: int | None = None

    @property
    def cell(self) -> str:
        """The row of the table: the variant with its values. Runs of one cell differ in the seed alone."""
        member = [] if self.member is None else [f"member {self.member}"]
        return " ".join([self.variant, *member, *(f"{key}={_shown(value)}" for key, value in self.values.items())])

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return f"{re.sub(r'[^A-Za-z0-9._=+-]+', '-', self.cell)[:180]}-seed{self.seed}"


def points(study: StudyConfig) -> list[Point]:
    """Returns the runs of a study, those of the first seed before those of the second.

    Every seed has the same drawn values, so that runs can be paired.
    """
    numbers = range(study.num_samples) if study.pbt else itertools.repeat(None)
    places = list(zip(_combinations(study), numbers))  # noqa: B905  (the numbers may have no end)
    found = [
        Point(name, seed, values, member)
        for seed in study.seeds
        for name in study.variants
        for values, member in places
    ]
    names = [point.name for point in found]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError([f"two runs would have the folder {twice[0]!r}: give variants and values other names"])
    return found


def _combinations(study: StudyConfig) -> list[dict[str, Any]]:
    grid = [dict(zip(study.grid, values, strict=True)) for values in itertools.product(*study.grid.values())]
    searched = {**study.search, **(study.pbt.mutate if study.pbt else {})}
    if not searched:
        return grid
    rng = np.random.default_rng(study.search_seed)
    drawn = [{key: draw(domain, rng) for key, domain in searched.items()} for _ in range(study.num_samples)]
    found = [{**values, **sample} for values in grid for sample in drawn]
    return found if study.pbt else [it for number, it in enumerate(found) if it not in found[:number]]


def draw(domain: Domain, rng: np.random.Generator) -> Any:
    """Returns one value of a domain."""
    if domain.choice is not None:
        return domain.choice[int(rng.integers(len(domain.choice)))]
    if domain.randint is not None:
        return int(rng.integers(*domain.randint))
    if domain.uniform is not None:
        return float(rng.uniform(*domain.uniform))
    assert domain.loguniform is not None
    return float(np.exp(rng.uniform(*np.log(domain.loguniform))))


def config_of(study: StudyConfig, point: Point, storage_path: str) -> AlgorithmConfig:
    """Returns the checked configuration of one run, whose folder is `<storage_path>/<point.name>`.

    In this order: the base, the study's `set` where the variant has the key, the variant's `set`, the values, the seed.
    A section that is given as a whole comes before keys of it.

    Raises:
        ConfigError: the message begins with the variant.
    """
    variant = study.variants[point.variant]
    data = filled(_base(variant.base if variant.base is not None else study.base), {SEED: str(point.seed)})
    changes = {**variant.set, **dict(point.values)}
    if "algorithm" in changes:
        data["algorithm"] = changes["algorithm"]
    source = f"variants.{point.variant}"
    try:
        model = resolve_algorithm(data.get("algorithm"))
        full, _ = desugar(data, model)
        given = _sections(changes)
        common = {key: value for key, value in study.set.items() if has_key(model, {**full, **given}, key)}
        common = {key: value for key, value in common.items() if not _says(given, expand_path(key.split("."), model))}
        ordered = sorted([*common.items(), *changes.items()], key=lambda pair: "." in pair[0])  # sections, then keys
        changes = {**dict(ordered), "seed": point.seed, "name": point.name}
        changes["checkpointing.storage_path"] = storage_path
        overrides = [f"{key}={json.dumps(filled(value, {SEED: str(point.seed)}))}" for key, value in changes.items()]
        return AlgorithmConfig.from_dict(full, overrides)
    except ConfigError as error:
        raise ConfigError(error.problems, source) from None


def configs(study: StudyConfig, storage_path: str) -> dict[str, AlgorithmConfig]:
    """Returns the configuration of every run by its name.

    Raises:
        ConfigError: one cannot be read, or no method at all has a key of the study's `set`.
    """
    models = [resolve_algorithm(name) for name in known_algorithms()]
    found = {point.name: config_of(study, point, storage_path) for point in points(study)}
    models += [type(config) for config in found.values()]
    unknown = [key for key in study.set if not any(_knows(model, key) for model in models)]
    if unknown:
        raise ConfigError([f"set.{key}: no method has this key" for key in unknown])
    if problem := _unwritten(study, list(found.values())):
        raise ConfigError([problem])
    return found


def _unwritten(study: StudyConfig, runs: Sequence[AlgorithmConfig]) -> str | None:
    """Why the metric that is compared would never be there: for a scheduler each run must write it on its way."""
    writing = [config for config in runs if config.evaluation.writes(study.metric)]
    if not writing or (len(writing) < len(runs) and (study.asha or study.pbt)):
        return f"metric: {study.metric} is of a held-out set that a run has not: name it in its evaluation.envs"
    held_out = study.metric.startswith("evaluation/")
    if (study.asha or study.pbt) and held_out and any(config.evaluation.every is None for config in runs):
        return f"metric: a scheduler compares {study.metric} on the way: set evaluation.every in every run"
    return None


def _knows(model: type[RunConfig], key: str) -> bool:
    """Whether a method has the section, and in it the first part of the key."""
    section, *rest = expand_path(key.split("."), model)
    if section not in model.model_fields:
        return False
    fields = _fields_of(model, section)
    return not rest or not fields or rest[0] in fields


def _fields_of(model: type[RunConfig], section: str) -> Mapping[str, Any]:
    """The keys of a section; empty where names or numbers of the user's choice come first."""
    fields = getattr(model.model_fields[section].annotation, "model_fields", {})
    return {} if "root" in fields else fields


def has_key(model: type[RunConfig], data: Mapping[str, Any], key: str) -> bool:
    """Whether a run of this class and with these sections has the key, as `teacher.path` or `envs.0.kwargs.path`."""
    section, *rest = expand_path(key.split("."), model)
    if section not in model.model_fields:
        return False
    if not rest:
        return True
    fields = _fields_of(model, section)
    if fields:
        return rest[0] in fields and _reaches(data.get(section) or {}, rest[1:], rest[0])
    there = data.get(section)
    return (isinstance(there, Sequence) and rest[0].isdigit() and int(rest[0]) < len(there)) or (
        isinstance(there, Mapping) and rest[0] in there
    )


def _reaches(section: Any, rest: Sequence[str], key: str) -> bool:
    """Whether the index in `evaluation.envs.0` is there. Other keys below a section may be new."""
    if not rest or not rest[0].isdigit():
        return True
    there = section.get(key)
    return isinstance(there, Sequence) and int(rest[0]) < len(there)


def _sections(changes: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that a variant's `set` gives as a whole, in full form: `teacher: {...}` is a map of one."""
    found = {key: value for key, value in changes.items() if "." not in key}
    full: dict[str, Any] = {"teachers": {"default": found.pop("teacher")}} if found.get("teacher") else {}
    if found.get("env"):
        full["envs"] = [found.pop("env")]
    return {**found, **full}


def _says(given: Any, path: Sequence[str]) -> bool:
    """Whether sections that a variant gives as a whole have a value at the path."""
    for part in path:
        if isinstance(given, list) and part.isdigit() and int(part) < len(given):
            given = given[int(part)]
        elif isinstance(given, Mapping) and part in given:
            given = given[part]
        else:
            return False
    return True


def _base(base: Any) -> dict[str, Any]:
    if isinstance(base, Mapping):
        return dict(base)
    if isinstance(base, str):
        return with_sets(load_file(base), Path(base).parent)
    merged: dict[str, Any] = {}
    for path in base:
        merged.update(with_sets(load_file(path), Path(path).parent))
    return merged


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def preparations(study: StudyConfig) -> Iterator[tuple[str, str]]:
    """Yields (what is created, command line) of each preparation, one for each seed where it names `{seed}`.

    What only other variants need is left out.
    """
    for step in study.prepare:
        if step.variants is not None and not set(step.variants) & set(study.variants):
            continue
        for seed in study.seeds if SEED in step.creates else study.seeds[:1]:
            yield filled(step.creates, {SEED: str(seed)}), filled(step.run, {SEED: str(seed)})
