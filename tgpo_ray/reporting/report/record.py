"""RunRecord, the data of a run for the report: rows, resolved configuration and samples from the run's folder."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tgpo_ray.reporting.metrics import read_metrics

ACCURACY = "evaluation/accuracy"


@dataclass(frozen=True)
class RunRecord:
    """One run.

    A sample is `{"iteration", "phase": "train" | "evaluation", "prompt", "responses": [...], "rewards": [...],
    "outcomes": [...]}`. The lists are as long as the group.
    """

    label: str
    metrics: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()

    def series(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """(n,) iterations and (n,) values of the rows where the metric is a number."""
        points = [(row["iteration"], row[name]) for row in self.metrics if is_number(row.get(name))]
        iterations, values = zip(*points, strict=True) if points else ((), ())
        return np.array(iterations, np.float64), np.array(values, np.float64)

    @property
    def num_iterations(self) -> int:
        return max((int(row["iteration"]) for row in self.metrics), default=0)

    @property
    def is_guided(self) -> bool:
        """Whether the configuration has teachers."""
        return bool(self.config.get("teachers"))  # config.yaml has the full form, never the shorthand `teacher`


def load_run(folder: str | os.PathLike[str], *, label: str | None = None) -> RunRecord:
    """The record of a run's folder: `metrics.jsonl`, and `config.yaml` and `samples.jsonl` where they exist.

    Args:
        label: the run's name in the report, by default the configuration's algorithm, else the folder's name.

    Raises:
        ValueError: the folder has no metrics.jsonl, or an unreadable file.
    """
    folder = Path(folder)
    if not (folder / "metrics.jsonl").exists():
        raise ValueError(f"{folder} holds no metrics.jsonl: give the folder of a run, which its first lines print")
    config = _read_config(folder / "config.yaml")
    samples = folder / "samples.jsonl"
    return RunRecord(
        label=label or str(config.get("algorithm", folder.resolve().name)),
        metrics=read_metrics(folder / "metrics.jsonl"),
        config=config,
        samples=read_metrics(samples) if samples.exists() else [],
    )


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _read_config(path: Path) -> dict[str, Any]:
    import yaml

    if not path.exists():
        return {}
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not readable as YAML: {error}; fix or delete it") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} must hold a mapping of sections, got {type(config).__name__}; fix or delete it")
    return config
