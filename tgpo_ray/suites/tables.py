"""The figures of several models as one table: Markdown and HTML to read, CSV to compute with."""

from __future__ import annotations

import csv
import html
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgpo_ray.reporting import CSS

if TYPE_CHECKING:
    from tgpo_ray.suites.estimates import Estimate
    from tgpo_ray.suites.figures import ModelFigures, SetFigures
    from tgpo_ray.suites.suite_config import PublishedConfig, SuiteConfig

NONE = "-"
SCORES = "Accuracy in percent: avg@k, and the 95 % interval of a bootstrap over problems."
PARTS_TITLE = "What is behind it, in percent of the responses; tokens of a response."
PUBLISHED = "published"

Table = tuple[list[str], list[list[str]]]  # head, rows


def write_tables(folder: Path, suite: SuiteConfig, models: Sequence[ModelFigures]) -> str:
    """Returns the table as Markdown, after writing table.md, table.csv and table.html into `folder`."""
    text = markdown(suite, models)
    (folder / "table.md").write_text(text, encoding="utf-8")
    (folder / "table.html").write_text(page(suite, models), encoding="utf-8")
    with (folder / "table.csv").open("w", encoding="utf-8", newline="") as file:
        rows = csv_rows(suite, models)
        names = list(dict.fromkeys(name for row in rows for name in row))
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)
    return text


def markdown(suite: SuiteConfig, models: Sequence[ModelFigures]) -> str:
    """Returns two tables: the accuracies with a column a model, and what is behind them."""
    parts = [SCORES, _markdown_table(score_table(suite, models)), *notes(suite, models), PARTS_TITLE]
    return "\n\n".join([*parts, _markdown_table(parts_table(models))]) + "\n"


def page(suite: SuiteConfig, models: Sequence[ModelFigures]) -> str:
    """Returns the same as one HTML page, which loads nothing from elsewhere."""
    title = f"Suite {suite.name or ''}".strip()
    lines = "".join(f'<p class="muted small">{html.escape(line)}</p>' for line in notes(suite, models))
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{CSS}</style></head>\n<body><main>\n"
        f'<h1>{html.escape(title)}</h1><p class="note">{SCORES}</p>{_html_table(score_table(suite, models))}{lines}'
        f'<p class="note">{PARTS_TITLE}</p>{_html_table(parts_table(models))}\n</main></body></html>\n'
    )


def shown_rows(suite: SuiteConfig, models: Sequence[ModelFigures]) -> dict[str, PublishedConfig]:
    """Returns the published figures that a model of the table stands beside."""
    return {name: suite.published[name] for model in models for name in model.published}


def score_table(suite: SuiteConfig, models: Sequence[ModelFigures]) -> Table:
    """Returns a row for each set and mean, a column for each model, and then those of published figures."""
    published = shown_rows(suite, models)
    head = ["Set", "k", *(model.label for model in models), *(f"{PUBLISHED}: {name}" for name in published)]
    rows = []
    for env in suite.evaluation.envs:
        found = [model.sets.get(env.label) for model in models]
        k = str(next((it.num_samples for it in found if it is not None), suite.evaluation.samples_of(env)))
        cells = [NONE if it is None else percent(it.accuracy) + _part(it) for it in found]
        theirs = [it.scores.get(env.label) for it in published.values()]
        rows.append([env.label, k, *cells, *(NONE if value is None else f"{value:.1f}" for value in theirs)])
    labels = dict.fromkeys(mean.label for model in models for mean in model.means)
    for label in labels:
        means = [next((it for it in model.means if it.label == label), None) for model in models]
        cells = [
            NONE
            if it is None
            else percent(it.accuracy) + next(filter(None, (_part(model.sets[n]) for n in it.sets)), "")
            for it, model in zip(means, models, strict=True)
        ]
        names = next(it.sets for it in means if it is not None)
        rows.append([f"mean, {label}", "", *cells, *(_published_mean(it, names) for it in published.values())])
    return head, rows


def _published_mean(row: PublishedConfig, names: Sequence[str]) -> str:
    scores = [row.scores[name] for name in names if name in row.scores]
    return f"{sum(scores) / len(scores):.1f}" if len(scores) == len(names) else NONE


def parts_table(models: Sequence[ModelFigures]) -> Table:
    """Returns a row for each model and set."""
    head = ["Model", "Set", "problems", "k", "pass@k", "maj@k", "truncated", "unparsable", "verifier failed", "tokens"]
    rows = [
        [
            model.label, it.label, f"{it.num_problems}", f"{it.num_samples}", percent(it.pass_at[it.num_samples]),
            percent(it.majority), *(f"{100 * share:.1f}" for share in (it.truncated, it.unparsable, it.failed)),
            f"{it.tokens.mean:,.0f}",
        ]
        for model in models
        for it in model.sets.values()
    ]  # fmt: skip
    return head, rows


def notes(suite: SuiteConfig, models: Sequence[ModelFigures]) -> list[str]:
    """Returns what a reader has to know: sets that are not whole, failed verifiers, and who published what."""
    lines = []
    for model in models:
        for it in model.sets.values():
            if it.num_problems < it.num_expected:
                lines.append(
                    f"* {model.label}, {it.label}: {it.num_problems} of {it.num_expected} problems have answers so far."
                )
            if it.num_left_out:
                lines.append(
                    f"{model.label}, {it.label}: {it.num_left_out} problems are in no figure, because their prompts "
                    "are too long for this model (`overlong_prompts: drop`). Other models may have others."
                )
            if it.failed > 0:
                lines.append(
                    f"{model.label}, {it.label}: the verifier gave no verdict on {100 * it.failed:.1f} % of the "
                    "responses. They count as not right, and `--rescore` tries them again."
                )
    for name, row in shown_rows(suite, models).items():
        lines.append(f"{PUBLISHED}: {name}: {row.source}. It was not measured here.")
    return lines


def csv_rows(suite: SuiteConfig, models: Sequence[ModelFigures]) -> list[dict[str, Any]]:
    """Returns a row for each model and set or mean, shares between 0 and 1; then the published, in their own column."""
    rows = []
    for model in models:
        rows += [{"model": model.label, **_csv_row(it)} for it in model.sets.values()]
        for mean in model.means:
            rows.append({"model": model.label, "set": f"mean, {mean.label}", **_bounds("accuracy", mean.accuracy)})
    for name, published in shown_rows(suite, models).items():
        rows += [
            {"model": name, "set": label, "published_percent": value, "source": published.source}
            for label, value in published.scores.items()
        ]
    return rows


def _csv_row(it: SetFigures) -> dict[str, Any]:
    passes = [_bounds(f"pass_at_{k}", value) for k, value in it.pass_at.items()]
    return {
        "set": it.label,
        "problems": it.num_problems,
        "problems_of_set": it.num_expected,
        "k": it.num_samples,
        **_bounds("accuracy", it.accuracy),
        **_bounds("majority", it.majority),
        "truncated": it.truncated,
        "unparsable": it.unparsable,
        "verifier_failed": it.failed,
        **_bounds("tokens", it.tokens),
        **{name: value for part in passes for name, value in part.items()},
    }


def _bounds(name: str, it: Estimate) -> dict[str, float]:
    return {name: it.mean, f"{name}_low": it.low, f"{name}_high": it.high}


def percent(it: Estimate) -> str:
    """Returns `43.3 [36.0, 51.2]`."""
    return f"{100 * it.mean:.1f} [{100 * it.low:.1f}, {100 * it.high:.1f}]"


def _part(it: SetFigures) -> str:
    return "" if it.num_problems == it.num_expected else " *"


def _markdown_table(table: Table) -> str:
    head, rows = table
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _html_table(table: Table) -> str:
    head, rows = table
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'
