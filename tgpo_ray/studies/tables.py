"""The CSV files beside a study's page: a row for each run, and a row for each variant and metric."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tgpo_ray.studies.comparison import Cell, Row
from tgpo_ray.studies.outcomes import Outcome

RUNS_FILE, TABLE_FILE = "runs.csv", "table.csv"
TABLE_COLUMNS = (
    "variant", "label", "metric", "runs", "n", "mean", "low", "high", "pairs", "difference", "difference_low",
    "difference_high", "p", "p_holm", "smallest_p", "seeds_needed", "paper",
)  # fmt: skip


def write_tables(folder: Path, found: Sequence[Outcome], rows: Sequence[Row], metrics: Sequence[str]) -> None:
    """Write both files."""
    keys = list(dict.fromkeys(key for outcome in found for key in outcome.point.values))
    columns = ["variant", *keys, "seed", "state", "reason", "iterations", *metrics, "folder"]
    _write(folder / RUNS_FILE, columns, [_run(outcome, metrics) for outcome in found])
    cells = [{**_cell(row.cells[metric]), **_names(row, metric)} for row in rows for metric in metrics]
    _write(folder / TABLE_FILE, TABLE_COLUMNS, cells)


def _run(outcome: Outcome, metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "variant": outcome.point.variant,
        **outcome.point.values,
        "seed": outcome.point.seed,
        "state": outcome.trial.state,
        "reason": outcome.trial.reason,
        "iterations": outcome.num_iterations,
        **{metric: outcome.last(metric) for metric in metrics},
        "folder": outcome.trial.folder,
    }


def _names(row: Row, metric: str) -> dict[str, Any]:
    return {"variant": row.name, "label": row.label, "metric": metric, "runs": row.runs}


def _cell(cell: Cell) -> dict[str, Any]:
    found: dict[str, Any] = {"paper": cell.paper, "p_holm": cell.adjusted_p}
    if cell.ours:
        found |= {"n": cell.ours.count, "mean": cell.ours.mean, "low": cell.ours.low, "high": cell.ours.high}
    if cell.against:
        change = cell.against.difference
        found |= {"pairs": change.count, "difference": change.mean}
        found |= {"difference_low": change.low, "difference_high": change.high, "p": cell.against.p_value}
        found |= {"smallest_p": cell.against.smallest_p, "seeds_needed": cell.against.seeds_needed}
    return found


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8", errors="replace") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)
