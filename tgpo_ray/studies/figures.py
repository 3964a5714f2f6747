"""The figures of a study's page: curves of each variant, the mean over seeds with its band."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tgpo_ray.reporting import METRICS, draw_svg, moving_average, smoothing_width, style
from tgpo_ray.studies.definition import Figure, StudyConfig
from tgpo_ray.studies.outcomes import Outcome
from tgpo_ray.studies.seed_statistics import band

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SMOOTHED = 24  # points, from which a noisy curve is smoothed

# What each figure of the paper shows, in this package's metrics.
PAPER_FIGURES: dict[int, Figure] = {
    2: Figure(
        title="Figure 2: a near and a far teacher",
        panels=["evaluation/accuracy", "reward", "guidance/log_ratio"],
    ),
    4: Figure(
        title="Figure 4: the course of training",
        panels=["reward", "episode/response_length", "policy/entropy"],
    ),
    5: Figure(
        title="Figure 5: schedules of the weight",
        panels=["guidance/weight", "evaluation/accuracy", "reward"],
    ),
    6: Figure(
        title="Figure 6: what guidance does to the policy",
        panels=["guidance/nll", "guidance/agreement", "optimizer/grad_norm"],
    ),
}


def figures_of(study: StudyConfig) -> list[Figure]:
    """Returns the figures of the page: the metric that is compared, the paper's, the study's own."""
    main = Figure(title="Over the iterations", panels=[study.metric])
    return [main, *(PAPER_FIGURES[number] for number in study.paper_figures), *study.figures]


def cells_of(found: Sequence[Outcome], figure: Figure) -> list[str]:
    """Returns the rows of the table that a figure draws."""
    names = dict.fromkeys(run.point.cell for run in found)
    wanted = {run.point.cell for run in found if figure.variants is None or run.point.variant in figure.variants}
    return [name for name in names if name in wanted]


def panel_svg(name: str, metric: str, found: Sequence[Outcome], cells: Sequence[str], *, wide: bool = False) -> str:
    """Returns an `<svg>` of one metric: bold lines are means over the seeds, bands 95 % intervals, thin lines single
    runs. Empty where no run has the metric. `name` begins the ids in the element.

    Runs that have failed or were stopped count as far as they got.
    """
    groups = {cell: [run.series(metric) for run in found if run.point.cell == cell] for cell in dict.fromkeys(cells)}
    curves = {cell: [each for each in group if len(each[0])] for cell, group in groups.items()}
    if not any(curves.values()):
        return ""
    order = list(dict.fromkeys(run.point.cell for run in found))

    sparse = metric.startswith(("evaluation/", "average/"))

    def draw(axes: Axes) -> None:
        bands = [_draw_cell(axes, runs, order.index(cell), sparse=sparse) for cell, runs in curves.items() if runs]
        limits = axes.get_ylim()  # a band of few runs is wide: it does not set the scale
        for color, iterations, lows, highs in bands:
            axes.fill_between(iterations, lows, highs, color=color, alpha=0.13, linewidth=0)
        axes.set_ylim(limits)
        axes.set_xlabel("iteration")
        axes.locator_params(axis="x", integer=True)

    size = {"width": 5.8, "height": 3.6} if wide else {}
    return draw_svg(f"{name}-{metric}", draw, **size)


def _draw_cell(
    axes: Axes, runs: Sequence[tuple[np.ndarray, np.ndarray]], index: int, *, sparse: bool
) -> tuple[str, np.ndarray, np.ndarray, np.ndarray]:
    """The band (colour, iterations, lower and upper bounds), after drawing the lines."""
    color, dash, marker = style(index)
    if len(runs) > 1:
        for iterations, values in runs:
            axes.plot(iterations, _smooth(values, sparse), color=color, linewidth=0.6, alpha=0.3)
    iterations, means, lows, highs = band([(x, _smooth(y, sparse)) for x, y in runs])
    mark = marker if sparse or len(iterations) == 1 else None
    axes.plot(iterations, means, color=color, linestyle=dash, linewidth=1.9, marker=mark, markersize=4)
    return color, iterations, lows, highs


def _smooth(values: np.ndarray, sparse: bool) -> np.ndarray:
    noisy = not sparse and len(values) >= SMOOTHED
    return moving_average(values, smoothing_width(len(values))) if noisy else values


def unit_of(metric: str) -> str:
    """Returns the unit of a metric, empty where it has none or the package does not know it."""
    return METRICS[metric].unit if metric in METRICS else ""
