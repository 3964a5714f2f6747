"""The rows of a study's table: what each variant reached, and how it differs from the baseline over the same seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tgpo_ray.studies.definition import StudyConfig
from tgpo_ray.studies.outcomes import AVERAGE, FAILED, FINISHED, NOT_STARTED, RUNNING, STOPPED, Outcome
from tgpo_ray.studies.points import Point
from tgpo_ray.studies.seed_statistics import Interval, Paired, holm, interval, paired


@dataclass(frozen=True)
class Cell:
    """One metric of one row.

    Attributes:
        ours: over the finished runs, None where no run has the metric.
        against: the baseline, over the seeds that both have finished; None for the baseline itself.
        adjusted_p: the p-value of `against` among all variants of the table (Holm).
        paper: a figure that others published, in its own column.
    """

    ours: Interval | None
    against: Paired | None = None
    adjusted_p: float | None = None
    paper: float | None = None


@dataclass(frozen=True)
class Row:
    """One variant with its values. `runs` says how many runs are in which state, as `3 finished, 1 failed`."""

    name: str
    label: str
    is_baseline: bool
    runs: str
    cells: dict[str, Cell]


def metrics_of(study: StudyConfig, found: Sequence[Outcome]) -> list[str]:
    """Returns the metrics of the table: the study's own first, then averages, then the further ones."""
    further = study.metrics
    if further is None:
        names = {name for outcome in found if outcome.record for row in outcome.record.metrics for name in row}
        further = sorted(name for name in names if name.startswith("evaluation/") and name.endswith("/accuracy"))
        published = {name for variant in study.variants.values() for name in variant.paper}
        further += sorted(published - set(further))
    return list(dict.fromkeys([study.metric, *(f"{AVERAGE}{name}" for name in study.averages), *further]))


def rows_of(study: StudyConfig, found: Sequence[Outcome]) -> list[Row]:
    """Returns the table, variants in the order of the file."""
    metrics = metrics_of(study, found)
    groups: dict[str, list[Outcome]] = {}
    for outcome in found:
        groups.setdefault(outcome.point.cell, []).append(outcome)
    baseline = _baseline(study, groups)
    rows = [_row(study, name, runs, groups.get(baseline or ""), metrics) for name, runs in groups.items()]
    return _adjusted(rows, metrics)


def _baseline(study: StudyConfig, groups: dict[str, list[Outcome]]) -> str | None:
    """The row that the others are compared with: the baseline's, with its first values where there are several."""
    return next((name for name, runs in groups.items() if runs[0].point.variant == study.baseline), None)


def _row(
    study: StudyConfig, name: str, runs: Sequence[Outcome], baseline: Sequence[Outcome] | None, metrics: Sequence[str]
) -> Row:
    variant = study.variants[runs[0].point.variant]
    is_baseline = baseline is not None and baseline[0].point.cell == name
    cells = {}
    for metric in metrics:
        values = _by_seed(runs, metric)
        against = None if baseline is None or is_baseline else _against(values, _by_seed(baseline, metric))
        ours = interval(list(values.values())) if values else None
        cells[metric] = Cell(ours, against, None, variant.paper.get(metric))
    return Row(name, label_of(study, runs[0].point), is_baseline, _states(runs), cells)


def label_of(study: StudyConfig, point: Point) -> str:
    """Returns the name of a row in tables and legends: the variant's label, with the values of a search."""
    label = study.variants[point.variant].label or point.variant
    return label + point.cell.removeprefix(point.variant)


def _by_seed(runs: Sequence[Outcome], metric: str) -> dict[int, float]:
    last = {run.point.seed: run.last(metric) for run in runs if run.counts}
    return {seed: value for seed, value in last.items() if value is not None}


def _against(values: dict[int, float], baseline: dict[int, float]) -> Paired | None:
    seeds = [seed for seed in values if seed in baseline]
    return paired([values[seed] for seed in seeds], [baseline[seed] for seed in seeds]) if seeds else None


def _states(runs: Sequence[Outcome]) -> str:
    counts = {state: sum(run.trial.state == state for run in runs) for state in STATES}
    return ", ".join(f"{count} {state}" for state, count in counts.items() if count)


STATES = (FINISHED, FAILED, STOPPED, RUNNING, NOT_STARTED)


def _adjusted(rows: Sequence[Row], metrics: Sequence[str]) -> list[Row]:
    """The rows with p-values adjusted over the variants, for each metric by itself."""
    adjusted = [dict(row.cells) for row in rows]
    for metric in metrics:
        p_values = {
            index: cell.against.p_value
            for index, cells in enumerate(adjusted)
            if (cell := cells[metric]).against is not None and cell.against.p_value is not None
        }
        for index, p in zip(p_values, holm(list(p_values.values())), strict=True):
            adjusted[index][metric] = replace(adjusted[index][metric], adjusted_p=p)
    return [replace(row, cells=cells) for row, cells in zip(rows, adjusted, strict=True)]
