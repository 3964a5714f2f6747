"""Studies and folders of their runs without any run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tgpo_ray.studies import Point, StudyConfig, points
from tgpo_ray.studies.outcomes import FINISHED, TrialState, folder_of, trial_folder

BASE: dict[str, Any] = {
    "algorithm": "TGPO",
    "model": {"path": "policy"},
    "teacher": {"path": "teacher"},
    "env": {"id": "tgpo/Arithmetic-v0", "kwargs": {"digits": [1, 1]}},
    "evaluation": {"every": 5, "envs": [{"id": "tgpo/Arithmetic-v0", "kwargs": {"split": "test"}}]},
    "training": {"num_iterations": 10},
}
GRPO: dict[str, Any] = {key: value for key, value in BASE.items() if key != "teacher"} | {"algorithm": "GRPO"}


def make_study(tmp_path: Path | None = None, **fields: Any) -> StudyConfig:
    """A study of GRPO against TGPO, three seeds."""
    data: dict[str, Any] = {
        "name": "small",
        "base": BASE,
        "variants": {"grpo": {"base": GRPO, "label": "GRPO"}, "tgpo": {"set": {"guidance.weight": 0.1}}},
        "seeds": [0, 1, 2],
        "baseline": "grpo",
        **({"storage_path": str(tmp_path)} if tmp_path else {}),
        **fields,
    }
    return StudyConfig.model_validate(data)


def write_run(
    study: StudyConfig,
    point: Point,
    rows: Sequence[Mapping[str, Any]],
    state: str = FINISHED,
    reason: str = "",
) -> Path:
    """The folder of a run that wrote these rows, with its record."""
    folder = folder_of(study)
    run = folder / "runs" / point.name
    run.mkdir(parents=True)
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    TrialState(state, reason, str(run), 1).write(trial_folder(str(folder), point.name))
    return run


def fill(study: StudyConfig, ends: Mapping[str, Sequence[float]]) -> None:
    """A finished run for each variant and seed, whose accuracy goes from 0.1 to the value given."""
    for point in points(study):
        end = ends[point.variant][study.seeds.index(point.seed)]
        values = {0: 0.1, 5: (0.1 + end) / 2, 10: end}
        rows = [
            {
                "iteration": iteration,
                "reward": 0.5 * value,
                "policy/entropy": 1 - value,
                "evaluation/accuracy": value,
                "evaluation/A/accuracy": value,
                "evaluation/B/accuracy": value / 2,
            }
            for iteration, value in values.items()
        ]
        write_run(study, point, rows)
