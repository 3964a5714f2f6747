"""The page of a study: one HTML file that loads nothing from elsewhere and runs no script."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

from tgpo_ray.reporting import CSS, line_key
from tgpo_ray.studies.comparison import Cell, Row, label_of, metrics_of, rows_of
from tgpo_ray.studies.definition import Figure, StudyConfig
from tgpo_ray.studies.figures import cells_of, figures_of, panel_svg, unit_of
from tgpo_ray.studies.outcomes import FAILED, FINISHED, Outcome
from tgpo_ray.studies.seed_statistics import LEVEL, POWER, Interval, Paired
from tgpo_ray.studies.tables import write_tables

PAGE = "report.html"
NONE = "&ndash;"
OWN_CSS = """
td.paper, th.paper { border-left: 2px solid var(--line); color: var(--muted); font-style: italic; }
.bad { color: var(--wrong); font-weight: 600; }
.plots figure:only-child { max-width: 680px; }
td .small { color: var(--muted); }
"""


def write_page(study: StudyConfig, found: Sequence[Outcome], folder: Path) -> Path:
    """Returns the path of the page, after writing it and the two CSV files into the study's folder."""
    rows, metrics = rows_of(study, found), metrics_of(study, found)
    write_tables(folder, found, rows, metrics)
    path = folder / PAGE
    path.write_text(page(study, found, rows, metrics), encoding="utf-8", errors="replace")
    return path


def page(study: StudyConfig, found: Sequence[Outcome], rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """Returns the HTML. Every text of a run or of the file is escaped."""
    title = html.escape(study.title or study.name)
    finished = sum(run.counts for run in found)
    body = [
        f"<h1>{title}</h1>",
        *(f'<p class="note">{html.escape(note)}</p>' for note in study.notes),
        f'<div class="conclusions"><p>{finished} of {len(found)} runs have finished.</p>'
        f"<p>{html.escape(_seeds_text(study))}</p></div>",
        "<h2>Results</h2>",
        _means(study, rows, metrics),
        _differences(study, rows),
        _unfinished(found),
        *(_figure(study, number, figure, found) for number, figure in enumerate(figures_of(study))),
        _runs(study, found),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{title}</title><style>{CSS}{OWN_CSS}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + "\n</main></body></html>\n"
    )


def _seeds_text(study: StudyConfig) -> str:
    seeds = ", ".join(map(str, study.seeds))
    return f"Variants: {len(study.variants)}. Seeds: {seeds}. The figure of a run is that of its last evaluation."


def _means(study: StudyConfig, rows: Sequence[Row], metrics: Sequence[str]) -> str:
    """HTML of the means. A figure that others published stands in a column of its own, beside ours."""
    head = ["<th>Variant</th><th>Runs</th>"]
    for metric in metrics:
        head.append(f"<th>{html.escape(_short(metric))}</th>")
        if _has_paper(rows, metric):
            head.append(f'<th class="paper">published: {html.escape(_short(metric))}</th>')
    lines = []
    for index, row in enumerate(rows):
        cells = [f"<td>{line_key(index)}{html.escape(row.label)}{_mark(row)}</td><td>{_runs_text(row.runs)}</td>"]
        for metric in metrics:
            cells.append(f"<td>{_interval(row.cells[metric].ours)}</td>")
            if _has_paper(rows, metric):
                cells.append(f'<td class="paper">{_number(row.cells[metric].paper)}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    published = any(_has_paper(rows, metric) for metric in metrics)
    return _table("".join(head), lines) + (
        f'<p class="muted small">Mean over the finished runs, with the {LEVEL:.0%} interval of Student over seeds. '
        "Runs that failed, were stopped or still go are counted, and are in no mean."
        + (" Published: figures of others, from other machines and mostly of one run, not made here." * published)
        + "</p>"
    )


def _mark(row: Row) -> str:
    return ' <span class="small">baseline</span>' if row.is_baseline else ""


def _has_paper(rows: Sequence[Row], metric: str) -> bool:
    return any(row.cells[metric].paper is not None for row in rows)


def _differences(study: StudyConfig, rows: Sequence[Row]) -> str:
    """HTML of the paired differences of the compared metric, empty without a baseline."""
    if study.baseline is None:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("Variant", "Pairs", "Difference", "p", "p, Holm", "Seeds needed"))
    lines = [_difference(row.label, row.cells[study.metric]) for row in rows if not row.is_baseline]
    label = study.variants[study.baseline].label or study.baseline
    better = "more is better" if study.mode == "max" else "less is better"
    return (
        f"<h2>{html.escape(_short(study.metric))}: difference from {html.escape(label)}</h2>"
        f'{_table(head, lines)}<p class="muted small">Pairs are runs of one seed ({better}). p: two-sided permutation '
        "test that flips the signs of the differences, exact up to 16 pairs; so many pairs cannot give less than the p "
        "in brackets. Holm: adjusted for the number of variants. Seeds needed: pairs after which a true difference of "
        f"this size and spread is found at p &lt; {1 - LEVEL:.2g} with a chance of {POWER:.0%}; from few pairs that is "
        "a rough figure.</p>"
    )


def _difference(label: str, cell: Cell) -> str:
    against = cell.against
    name = f"<td>{html.escape(label)}</td>"
    if against is None:
        return f"<tr>{name}<td>0</td>{f'<td>{NONE}</td>' * 4}</tr>"
    needed = NONE if against.p_value is None else str(against.seeds_needed or "over 10,000")
    return (
        f"<tr>{name}<td>{against.difference.count}</td><td>{_interval(against.difference, '{:+.3f}')}</td>"
        f"<td>{_p(against)}</td><td>{_number(cell.adjusted_p)}</td><td>{needed}</td></tr>"
    )


def _p(against: Paired) -> str:
    if against.p_value is None:
        return NONE
    return f'{_number(against.p_value)} <span class="small">({against.smallest_p:.3g})</span>'


def _unfinished(found: Sequence[Outcome]) -> str:
    """HTML of the runs that failed or were stopped, with the reason; empty where there is none."""
    rest = [run for run in found if run.trial.state != FINISHED and run.trial.attempts]
    if not rest:
        return ""
    head = "".join(f"<th>{name}</th>" for name in ("Run", "State", "Iterations", "Reason"))
    lines = [
        f"<tr><td>{html.escape(run.point.name)}</td><td{_bad(run)}>{run.trial.state}</td>"
        f"<td>{run.num_iterations}</td><td>{html.escape(run.trial.reason) or NONE}</td></tr>"
        for run in rest
    ]
    return f"<h2>Runs that have not finished</h2>{_table(head, lines, left=True)}"


def _bad(run: Outcome) -> str:
    return ' class="bad"' if run.trial.state == FAILED else ""


def _figure(study: StudyConfig, number: int, figure: Figure, found: Sequence[Outcome]) -> str:
    cells = cells_of(found, figure)
    labels = {run.point.cell: label_of(study, run.point) for run in found}
    order = list(labels)
    panels = []
    for metric in figure.panels:
        svg = panel_svg(f"figure{number}", metric, found, cells, wide=len(figure.panels) == 1)
        if svg:
            unit = f"<span>{html.escape(unit_of(metric))}</span>"
            panels.append(f"<figure><figcaption>{html.escape(_short(metric))}{unit}</figcaption>{svg}</figure>")
    if not panels:
        return ""
    legend = "".join(f"<span>{line_key(order.index(cell))}{html.escape(labels[cell])}</span>" for cell in cells)
    note = "Bold: mean over seeds, from three seeds on with its 95 % interval. Thin: single runs."
    return (
        f'<h2>{html.escape(figure.title)}</h2><div class="legend">{legend}</div>'
        f'<div class="plots">{"".join(panels)}</div><p class="muted small">{note}</p>'
    )


def _runs(study: StudyConfig, found: Sequence[Outcome]) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("Run", "State", "Iterations", _short(study.metric), "Folder"))
    lines = [
        f"<tr><td>{html.escape(run.point.name)}</td><td{_bad(run)}>{run.trial.state}</td><td>{run.num_iterations}</td>"
        f"<td>{_number(run.last(study.metric))}</td><td>{html.escape(Path(run.trial.folder).name) or NONE}</td></tr>"
        for run in found
    ]
    return f"<h2>All runs</h2><details><summary>{len(found)} runs</summary>{_table(head, lines)}</details>"


def _table(head: str, lines: Sequence[str], *, left: bool = False) -> str:
    kind = ' class="left"' if left else ""
    return (
        f'<div class="scroll"><table{kind}><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table></div>'
    )


def _runs_text(runs: str) -> str:
    text = html.escape(runs)
    return f'<span class="bad">{text}</span>' if FAILED in runs else text


def _interval(found: Interval | None, form: str = "{:.3f}") -> str:
    if found is None:
        return NONE
    mean = form.format(found.mean)
    if found.low is None or found.high is None:
        return f'{mean} <span class="small">(1 run)</span>'
    return f'{mean} <span class="small">[{form.format(found.low)}, {form.format(found.high)}]</span>'


def _number(value: float | None) -> str:
    return NONE if value is None else f"{value:.3g}"


def _short(metric: str) -> str:
    """`MATH-500 accuracy` for `evaluation/MATH-500/accuracy`."""
    return " ".join(part for part in metric.split("/") if part not in ("evaluation", "episode", "policy", "optimizer"))
