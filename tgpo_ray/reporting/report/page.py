"""The report's page. Every text of a run is escaped, and every figure comes from the run's rows."""

from __future__ import annotations

import html
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tgpo_ray.reporting.progress import format_seconds

from .conclusions import REWARD_WINDOW, Summary, conclude, summarize
from .plots import PANELS, Panel, accuracy_plot, metric_plot, set_panels, smoothing_width, style, time_plot
from .record import RunRecord
from .samples import samples_section
from .stylesheet import CSS

NONE = "&ndash;"  # in place of a figure that a run did not record


def write_report(
    path: str | os.PathLike[str],
    runs: Sequence[RunRecord],
    *,
    title: str,
    notes: str | Sequence[str] = (),
    tokens: str = "",
) -> Path:
    """Returns the path of a self-contained HTML page about `runs`, after writing it.

    Args:
        notes: sentences under the title, such as the task and what is equal in all runs.
        tokens: address of the page of tokens, to which the page leads.

    Raises:
        ValueError: `runs` is empty.
    """
    path = Path(path)
    text = report_page(runs, title=title, notes=[notes] if isinstance(notes, str) else notes, tokens=tokens)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", errors="replace")
    return path


def report_page(runs: Sequence[RunRecord], *, title: str, notes: Sequence[str] = (), tokens: str = "") -> str:
    """The HTML of the page; see `write_report`."""
    if not runs:
        raise ValueError("a report needs at least 1 run, got 0: give the folders of finished or running runs")
    samples = "".join(samples_section(run) for run in runs)
    link = f'<p class="note"><a href="{html.escape(tokens)}">What the teacher thought of every token</a></p>'
    body = [
        f"<h1>{html.escape(title)}</h1>",
        link if tokens else "",
        *(f'<p class="note">{html.escape(note)}</p>' for note in notes if note),
        '<div class="conclusions">' + "".join(f"<p>{html.escape(text)}</p>" for text in conclude(runs)) + "</div>",
        _headline_table(runs),
        f"<h2>Curves</h2>{_legend(runs)}{_plots(runs)}",
        f"<h2>Sample episodes</h2>{samples}" if samples else "",
        f"<h2>Configuration</h2>{_differences(runs)}{_configs(runs)}" if any(run.config for run in runs) else "",
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def _headline_table(runs: Sequence[RunRecord]) -> str:
    head = ("Run", "Start", "End", "Change", "Best", "Reward", "Iterations", "Wall time", "Response tokens")
    rows = "".join(_headline_row(index, summarize(run)) for index, run in enumerate(runs))
    return (
        f'<div class="scroll"><table><thead><tr>{"".join(f"<th>{name}</th>" for name in head)}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
        '<p class="muted small">Start, End, Best: held-out accuracy, with one standard error over the problems where '
        "their number is known. Best is the luckiest of several noisy figures, with its iteration. "
        f"Reward: mean training reward of the last {REWARD_WINDOW} iterations.</p>"
    )


def _headline_row(index: int, summary: Summary) -> str:
    error = f" ± {summary.standard_error:.3f}" if summary.standard_error is not None else ""
    best = NONE if summary.best is None else f"{summary.best:.3f} at {summary.best_iteration}"
    cells = (
        line_key(index) + html.escape(summary.label),
        _number(summary.start, "{:.3f}"),
        _number(summary.end, "{:.3f}") + error,
        _number(summary.change, "{:+.3f}"),
        best,
        _number(summary.reward, "{:.3f}"),
        str(summary.num_iterations),
        NONE if summary.wall_s is None else format_seconds(summary.wall_s),
        _number(summary.tokens, "{:,.0f}"),
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _plots(runs: Sequence[RunRecord]) -> str:
    figures = [_figure("Held-out accuracy", "", accuracy_plot(runs), is_wide=True)]
    figures += [_panel(runs, panel) for panel in (*set_panels(runs), *PANELS)]
    figures.append(_figure("Where the time goes", "mean of an iteration", time_plot(runs)))
    widths = {smoothing_width(run.num_iterations) for run in runs} - {1}
    smoothing = (
        f'<p class="muted small">Thin lines: each iteration. Bold lines: mean of the last '
        f"{' or '.join(map(str, sorted(widths)))} iterations.</p>"
        if widths
        else ""
    )
    return f'<div class="plots">{"".join(figures)}</div>{smoothing}'


def _panel(runs: Sequence[RunRecord], panel: Panel) -> str:
    return _figure(panel.title, panel.unit, metric_plot(runs, panel))


def _figure(title: str, unit: str, svg: str, *, is_wide: bool = False) -> str:
    if not svg:
        return ""
    kind = ' class="wide"' if is_wide else ""
    small = f"<span>{html.escape(unit)}</span>" if unit else ""
    return f"<figure{kind}><figcaption>{html.escape(title)}{small}</figcaption>{svg}</figure>"


def _legend(runs: Sequence[RunRecord]) -> str:
    entries = "".join(f"<span>{line_key(index)}{html.escape(run.label)}</span>" for index, run in enumerate(runs))
    return f'<div class="legend">{entries}</div>'


def line_key(index: int) -> str:
    """SVG of a short line in the run's colour and dash."""
    color, dash, _ = style(index)
    # matplotlib's dashes in SVG's notation; "2 3" is the dotted one
    pattern = {"-": "none", "--": "7 4", "-.": "8 3 2 3"}.get(str(dash), "2 3")
    line = f'<line x1="1" y1="5" x2="27" y2="5" stroke="{color}" stroke-width="2.5" stroke-dasharray="{pattern}"/>'
    return f'<svg class="key" width="28" height="10" aria-hidden="true">{line}</svg>'


def _differences(runs: Sequence[RunRecord]) -> str:
    """HTML of the settings in which the runs differ, which a reader needs before comparing curves."""
    flat = [flatten(run.config) for run in runs]
    names = dict.fromkeys(name for config in flat for name in config)  # a set that keeps the order
    rows = [name for name in names if len({repr(config.get(name)) for config in flat}) > 1]
    if not rows:
        return ""
    head = "".join(f"<th>{html.escape(run.label)}</th>" for run in runs)
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td>{html.escape(str(config[name])) if name in config else NONE}</td>" for config in flat)
        + "</tr>"
        for name in rows
    )
    return (
        '<p class="muted small">Settings in which the runs differ:</p><div class="scroll"><table class="left">'
        f"<thead><tr><th>Setting</th>{head}</tr></thead><tbody>{body}</tbody></table></div><p></p>"
    )


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The config with dotted keys: {"training": {"lr": 1}} -> {"training.lr": 1}. Lists stay whole."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _configs(runs: Sequence[RunRecord]) -> str:
    import yaml

    return "".join(
        f"<details><summary>{html.escape(run.label)}: resolved configuration</summary>"
        f"<pre>{html.escape(yaml.safe_dump(dict(run.config), sort_keys=False, allow_unicode=True))}</pre></details>"
        for run in runs
        if run.config
    )


def _number(value: float | None, form: str) -> str:
    return NONE if value is None else form.format(value)
