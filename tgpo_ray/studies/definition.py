"""The YAML file of a study: variants of a run, seeds, what is compared, and how many runs there are at a time."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from tgpo_ray.config import FolderName, NonNegative, Positive, Seed, Strict, is_metric

Base = str | list[str] | dict[str, Any]
Pair = Annotated[tuple[float, float], Field(strict=False)]
EXTENDS, KEEPS, SET, VALUES, VARIANTS = "extends", "keeps", "set", "values", "variants"
HERE, SEED = "{here}", "{seed}"
AVERAGE = "average/"
OWN_METRICS = ("loss/", "policy/", "guidance/")  # where methods of one's own may have further names
STUDYS_OWN = {
    "seed": "`seeds` of the study",
    "name": "the names of `variants`",
    "checkpointing.storage_path": "`storage_path` of the study",
}


class Variant(Strict):
    """One variant: a run's configuration, as a base with changes."""

    base: Base | None = Field(default=None, description="Its own base; null: the study's.")
    set: dict[str, Any] = Field(default_factory=dict, description="Keys of the run, as `training.lr: 1e-6`.")
    label: str | None = Field(default=None, description="Name in tables and plots; null: its key.")
    paper: dict[str, float] = Field(
        default_factory=dict, description="Metric -> a figure that others published, for a column of its own."
    )


class Domain(Strict):
    """The values that random search draws for one key: exactly one of the four."""

    choice: list[Any] | None = Field(default=None, description="One of these.")
    uniform: Pair | None = Field(default=None, description="Between two numbers.")
    loguniform: Pair | None = Field(default=None, description="Between two numbers above 0, even in the logarithm.")
    randint: Annotated[tuple[int, int], Field(strict=False)] | None = Field(
        default=None, description="A whole number, the second one excluded."
    )

    @model_validator(mode="after")
    def _is_one_domain(self) -> Domain:
        given = [name for name in type(self).model_fields if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"write one of choice, uniform, loguniform, randint, got {', '.join(given) or 'none'}")
        if self.choice is not None and not self.choice:
            raise ValueError("choice needs at least 1 value, got none")
        bounds = self.uniform or self.loguniform or self.randint
        if bounds and not bounds[0] < bounds[1]:
            raise ValueError(f"{given[0]} needs a smaller and a larger number, got {list(bounds)}")
        if self.loguniform and self.loguniform[0] <= 0:
            raise ValueError(f"loguniform needs numbers above 0, got {list(self.loguniform)}")
        return self


class Asha(Strict):
    """Successive halving (ASHA): runs that are behind at their first evaluations end early."""

    grace_period: Positive = Field(default=1, description="Iterations before a run may be ended.")
    reduction_factor: Annotated[float, Field(gt=1)] = Field(default=3.0, description="One of this many goes on.")


class PopulationBased(Strict):
    """Population-based training: runs that are behind go on from a better one's checkpoint, with changed values."""

    every: Positive = Field(description="Iterations between comparisons.")
    mutate: dict[str, Domain] = Field(description="Keys that change, and what is drawn for them.", min_length=1)
    quantile: Annotated[float, Field(gt=0, le=0.5)] = Field(
        default=0.25, description="Share of the runs that is replaced."
    )


class Preparation(Strict):
    """A command that is run before the trials where its file is not there."""

    creates: str = Field(description="File or folder that the command writes; {seed}: one for each seed.")
    run: str = Field(
        description="Command line without a shell; `tgpo-ray` and `python` are this installation's.", min_length=1
    )
    variants: list[str] | None = Field(
        default=None,
        description="Only where one of these is run, of which a study that extends this one may lack some; null: "
        "always.",
    )


class Figure(Strict):
    """One figure of the page: a curve with its band for each variant, a panel for each metric."""

    title: str = Field(description="Over the panels.")
    panels: list[str] = Field(description="Metrics of docs/metrics.md.", min_length=1)
    variants: list[str] | None = Field(default=None, description="The variants drawn; null: all.")


class StudyConfig(Strict):
    """A study. Paths of other YAML files are relative to its own folder, all others to the working folder.

    In texts `{here}` is the folder of the study's file, `{seed}` the seed of the run, and `{x}` the value of `x` in
    `values`; a text that is `{x}` alone becomes the value itself.
    """

    name: FolderName = Field(description="Name of the study's folder; by default that of the YAML file.")
    title: str | None = Field(default=None, description="Title of the page; null: the name.")
    notes: list[str] = Field(default_factory=list, description="Sentences under the title.")
    values: dict[str, str | int | float] = Field(
        default_factory=dict, description="Name -> what stands for `{name}` in texts: what extending studies change."
    )
    storage_path: str = Field(default="runs/studies", description="The study writes <storage_path>/<name>.")
    base: Base | None = Field(
        default=None, description="YAML file of a run, several whose sections add up, or the sections themselves."
    )
    set: dict[str, Any] = Field(default_factory=dict, description="Keys for every variant that has them.")
    variants: dict[FolderName, Variant] = Field(description="Variants by name.", min_length=1)
    grid: dict[str, list[Any]] = Field(default_factory=dict, description="Key -> values; all combinations are run.")
    search: dict[str, Domain] = Field(default_factory=dict, description="Key -> what is drawn for it.")
    num_samples: Positive = Field(default=1, description="Draws of `search` for each variant.")
    search_seed: Seed = Field(default=0, description="Seed of these draws.")
    seeds: list[Seed] = Field(default_factory=lambda: [0], description="One run of each variant for each.")
    baseline: str | None = Field(default=None, description="Variant that the others are compared with.")
    metric: str = Field(default="evaluation/accuracy", description="What is compared, and what schedulers look at.")
    mode: Literal["max", "min"] = Field(default="max", description="Whether more of it is better.")
    metrics: list[str] | None = Field(default=None, description="Further columns; null: every named held-out set.")
    averages: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(
        default_factory=dict, description="Name -> metrics; `average/<name>` is their mean."
    )
    paper_figures: list[Literal[2, 4, 5, 6]] = Field(
        default_factory=list, description="Figures of the paper, drawn from these runs."
    )
    figures: list[Figure] = Field(default_factory=list, description="Further figures.")
    asha: Asha | None = Field(default=None, description="End runs early; null: none.")
    pbt: PopulationBased | None = Field(default=None, description="Population-based training; null: none.")
    at_once: Positive | None = Field(default=None, description="Most runs at a time; null: what the cluster holds.")
    retries: NonNegative = Field(default=0, description="Times that a failed run goes on from its last checkpoint.")
    prepare: list[Preparation] = Field(default_factory=list, description="Commands before the runs.")
    num_cpus: Positive | None = Field(default=None, description="CPUs of a local cluster; null: all cores.")
    address: str | None = Field(default=None, description="Cluster to join; null: RAY_ADDRESS, else a local one.")

    @model_validator(mode="after")
    def _is_consistent(self) -> StudyConfig:
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterable[str]:
        there = ", ".join(self.variants)
        if self.baseline is not None and self.baseline not in self.variants:
            yield f"baseline: no variant {self.baseline!r}; there is: {there}"
        for figure in self.figures:
            for name in set(figure.variants or ()) - set(self.variants):
                yield f"figures: no variant {name!r}; there is: {there}"
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            yield f"seeds: needs different numbers, at least 1, got {self.seeds}"
        if self.asha and self.pbt:
            yield "asha and pbt: both are schedulers, keep one"
        if (self.asha or self.pbt) and self.metric.startswith("average/"):
            yield f"metric: {self.metric} is the page's own; a scheduler needs one of the rows, as evaluation/accuracy"
        parts = list(itertools.chain.from_iterable(self.averages.values()))
        published = [name for variant in self.variants.values() for name in variant.paper]
        panels = [name for figure in self.figures for name in figure.panels]
        for name in [self.metric, *(self.metrics or ()), *published, *panels, *parts]:
            is_average = name.startswith(AVERAGE) and name not in parts
            own = name.startswith(OWN_METRICS)
            if not (name.removeprefix(AVERAGE) in self.averages if is_average else own or is_metric(name)):
                yield f"metric: no run writes {name!r}: write one of docs/metrics.md, or average/<name of `averages`>"
        yield from self._run_problems()

    def _run_problems(self) -> Iterable[str]:
        """What is wrong with the runs that variants, grid, search and population make."""
        drawn = {**self.grid, **self.search, **(self.pbt.mutate if self.pbt else {})}
        for key in [*self.set, *drawn, *(key for variant in self.variants.values() for key in variant.set)]:
            if key in STUDYS_OWN:
                yield f"{key}: is what the study gives each run; write {STUDYS_OWN[key]}"
        for key in [key for key, values in self.grid.items() if not values]:
            yield f"grid.{key}: needs at least 1 value, got none"
        if self.num_samples > 1 and not (self.search or self.pbt):
            yield f"num_samples: counts draws of `search` or members of `pbt`, got {self.num_samples} with neither"
        if self.pbt and (len(self.variants) > 1 or len(self.seeds) > 1):
            yield (
                f"pbt: has one variant and one seed, got {len(self.variants)} and {len(self.seeds)}: its members copy "
                "one another, and would take over the other's variant or seed; write a study for each"
            )
        for step in self.prepare:
            if SEED in step.run and SEED not in step.creates and len(self.seeds) > 1:
                yield f"prepare: {step.creates!r} is one file, and its command has {SEED}: name a file for each seed"
        labels = [variant.label or name for name, variant in self.variants.items()]
        for label in sorted({label for label in labels if labels.count(label) > 1}):
            yield f"variants: two are called {label!r} in the tables; give one another `label`"
        if self.pbt and self.grid:
            yield "pbt and grid: population-based training changes values while runs go on; write grid or pbt"
        for key in [*{*self.grid} & {*self.search}, *{*self.search} & {*(self.pbt.mutate if self.pbt else ())}]:
            yield f"{key}: stands in two of grid, search and pbt.mutate, keep one"
        for name, variant in self.variants.items():
            if variant.base is None and self.base is None:
                yield f"variants.{name}.base: required, because the study has no base"
