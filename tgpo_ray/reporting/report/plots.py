"""The report's plots as inline SVG. Runs share their axes and differ in colour, dash and marker."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .record import ACCURACY, RunRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe & Ito's palette, made to be told apart by colour-blind readers; its yellow is too pale for a line on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
DASHES = ("-", "--", "-.", (0, (1, 1.2)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STAGES = ("sample", "guidance", "update", "sync", "evaluate", "checkpoint")
STAGE_COLORS = ("#4477AA", "#66CCEE", "#CCBB44", "#AA3377", "#228833", "#EE6677", "#BBBBBB")  # Tol's bright palette
INK, MUTED, GRID = "#1f2430", "#5b6472", "#e6e8ec"
WIDTH, HEIGHT = 4.0, 2.7  # inches; one inch is 72 units of the SVG

TIGHT_LEGEND: dict[str, Any] = {"handlelength": 0.9, "columnspacing": 1, "handletextpad": 0.4, "borderaxespad": 0.1}
METADATA = ("Creator", "Date", "Format", "Type")  # dates and addresses, which matplotlib would write into the file

RC_PARAMS: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: small, searchable, in the page's font
    "svg.hashsalt": "tgpo_ray",  # the same figures give the same file
    "font.size": 9,
    "axes.edgecolor": "#b4bac4",
    "axes.labelcolor": MUTED,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "text.color": INK,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Panel:
    """One plot of a metric over iterations."""

    metric: str
    title: str
    unit: str
    from_zero: bool = False
    is_sparse: bool = False  # True for evaluations: a mark at each point
    is_noisy: bool = True  # drawn thin, with a moving average over it


PANELS = (
    Panel("reward", "Training reward", "mean"),
    Panel("episode/response_length", "Response length", "tokens", from_zero=True),
    Panel("policy/entropy", "Policy entropy", "nats", from_zero=True),
    Panel("guidance/nll", "Guidance NLL", "nats/token", from_zero=True),
    Panel("guidance/agreement", "Agreement with the teacher", "share"),
    Panel("guidance/weight", "Guidance weight", "", from_zero=True, is_noisy=False),
    Panel("guidance/gate", "Mean factor of the gate", "over guided tokens", from_zero=True),
    Panel("guidance/gate_open", "Tokens that the gate leaves open", "share", from_zero=True),
    Panel("guidance/gradient_ratio", "Gradient of guidance over that of the policy loss", "estimate", from_zero=True),
    Panel("guidance/log_ratio", "Log-ratio of policy and teacher", "nats"),
    Panel("guidance/confidence", "The teacher's confidence", "probability", from_zero=True),
    Panel("zero_advantage_groups", "Groups with equal rewards", "share", from_zero=True),
    Panel("episode/truncated", "Episodes cut by the token limit", "share", from_zero=True),
    Panel("optimizer/grad_norm", "Gradient norm", "before clipping", from_zero=True),
    Panel("throughput/response_tokens_per_s", "Throughput", "response tokens/s", from_zero=True),
)


def accuracy_plot(runs: Sequence[RunRecord]) -> str:
    """Held-out accuracy over iterations, with the base policy's as a dotted line. Empty without evaluations."""
    curves = [run.series(ACCURACY) for run in runs if len(run.series(ACCURACY)[0])]
    if not curves:
        return ""
    bases = [values[0] for iterations, values in curves if iterations[0] == 0]

    def draw(axes: Axes) -> None:
        if bases:
            axes.axhline(
                float(np.mean(bases)), color=MUTED, linestyle=":", linewidth=1.4, label="base policy", zorder=1
            )
        _draw_lines(axes, runs, Panel(ACCURACY, "", "", is_sparse=True))
        low, high = axes.get_ylim()
        axes.set_ylim(max(low - 0.02, -0.02), min(high + 0.02, 1.02))
        axes.legend(frameon=False, fontsize=9, loc="best", handlelength=2.6)

    return draw_svg("accuracy", draw, width=5.8, height=3.95)


def metric_plot(runs: Sequence[RunRecord], panel: Panel) -> str:
    """One metric of every run. Empty where no run recorded it."""
    if not any(len(run.series(panel.metric)[0]) for run in runs):
        return ""

    def draw(axes: Axes) -> None:
        _draw_lines(axes, runs, panel)
        if panel.from_zero:
            top = max(1.05 * axes.get_ylim()[1], 1e-9)
            axes.set_ylim(-0.03 * top, top)  # a little below zero: a line along zero stays visible
        if axes.get_ylim()[1] >= 10_000:
            axes.yaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")

    return draw_svg(panel.metric, draw)


def set_panels(runs: Sequence[RunRecord]) -> list[Panel]:
    """A panel for the accuracy on each named held-out set. Empty with fewer than two sets."""
    names = {name for run in runs for row in run.metrics for name in row}
    sets = sorted(name for name in names if re.fullmatch(r"evaluation/.+/accuracy", name))
    if len(sets) < 2:
        return []
    return [
        Panel(name, f"Held-out: {name.removeprefix('evaluation/').removesuffix('/accuracy')}", "", is_sparse=True)
        for name in sets
    ]


def time_plot(runs: Sequence[RunRecord]) -> str:
    """Mean seconds an iteration, as one bar a run with a piece for each stage. Empty without times."""
    bars = [(run.label, stage_seconds(run)) for run in runs]
    if not any(sum(seconds.values()) for _, seconds in bars):
        return ""
    stages = [stage for stage in (*STAGES, "other") if any(seconds.get(stage, 0.0) for _, seconds in bars)]

    def draw(axes: Axes) -> None:
        left = np.zeros(len(bars))
        for stage in stages:
            width = np.array([seconds.get(stage, 0.0) for _, seconds in bars])
            color = STAGE_COLORS[(*STAGES, "other").index(stage)]
            axes.barh(np.arange(len(bars)), width, left=left, color=color, height=0.5, label=stage)
            left += width
        axes.set_xlabel("seconds")
        axes.set_yticks(np.arange(len(bars)), [_short(label) for label, _ in bars])
        axes.set_ylim(len(bars) - 0.4, -0.6)
        axes.grid(visible=False, axis="y")
        axes.legend(frameon=False, fontsize=8, ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0), **TIGHT_LEGEND)

    return draw_svg("time", draw)


def stage_seconds(run: RunRecord) -> dict[str, float]:
    """Mean seconds an iteration for each stage, and the rest as `other`."""
    iterations = max(run.num_iterations, 1)
    totals = {stage: float(run.series(f"time/{stage}_s")[1].sum()) / iterations for stage in STAGES}
    whole = float(run.series("time/iteration_s")[1].sum()) / iterations
    return {**totals, "other": max(whole - sum(totals.values()), 0.0)}


def style(index: int) -> tuple[str, str | tuple[int, tuple[float, ...]], str]:
    """(colour, dash, marker) of the run at `index`, the same in every plot and in the legend."""
    return COLORS[index % len(COLORS)], DASHES[index % len(DASHES)], MARKERS[index % len(MARKERS)]


def moving_average(values: np.ndarray, width: int) -> np.ndarray:
    """(n,) the mean of the last `width` values at each place, of fewer at the beginning."""
    sums = np.concatenate([[0.0], np.cumsum(values)])  # (n + 1,)
    stop = np.arange(1, len(values) + 1)
    start = np.maximum(stop - width, 0)
    return (sums[stop] - sums[start]) / (stop - start)


def smoothing_width(num_values: int) -> int:
    """A twelfth of the run, or 1 (no smoothing) for runs of fewer than 24 iterations."""
    return max(num_values // 12, 1)


def _draw_lines(axes: Axes, runs: Sequence[RunRecord], panel: Panel) -> None:
    last = max(max(run.num_iterations for run in runs), 1)
    axes.set_xlim(-0.02 * last, 1.02 * last)  # the same in every plot, whatever a run recorded
    axes.locator_params(axis="x", integer=True)
    axes.set_xlabel("iteration")
    for index, run in enumerate(runs):
        iterations, values = run.series(panel.metric)
        if not len(iterations):
            continue
        color, dash, marker = style(index)
        if panel.is_sparse:
            marks: dict[str, Any] = {
                "marker": marker,
                "markersize": 4.5,
                "markeredgecolor": "white",
                "markeredgewidth": 0.6,
            }
            axes.plot(iterations, values, color=color, linestyle=dash, linewidth=1.9, label=run.label, **marks)
            continue
        width = smoothing_width(len(values)) if panel.is_noisy else 1
        if width > 1:
            axes.plot(iterations, values, color=color, linewidth=0.8, alpha=0.28)
        only_point: dict[str, Any] = {"marker": marker} if len(values) == 1 else {}
        smooth = moving_average(values, width)
        axes.plot(iterations, smooth, color=color, linestyle=dash, linewidth=1.8, label=run.label, **only_point)


def draw_svg(name: str, draw: Callable[[Axes], None], *, width: float = WIDTH, height: float = HEIGHT) -> str:
    """An `<svg>` element whose ids start with `name`, without addresses or anything outside the element.

    Of the name, which may be a metric's with a set of the user's, letters and digits stay.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(RC_PARAMS):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots()
        draw(axes)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata=dict.fromkeys(METADATA))
    return _inline(buffer.getvalue(), re.sub(r"[^A-Za-z0-9]+", "-", name))


def _inline(svg: str, name: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"| version="[^"]*"', "", svg)  # HTML knows the namespaces
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    # Several figures share one page: their ids (figure_1, clip paths, markers) must not meet.
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'href="#', f'href="#{name}-', svg)
    svg = svg.replace("url(#", f"url(#{name}-")
    svg = re.sub(r'(<svg\b[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    fonts = "system-ui, -apple-system, Segoe UI, Roboto, Helvetica, Arial, sans-serif"
    return re.sub(r"(font: [^;\"]*?px) [^;\"]*", rf"\1 {fonts}", svg)


def _short(label: str) -> str:
    return label if len(label) <= 14 else label[:13] + "…"
