"""The writers of an iteration's figures: always a JSON-lines file, and on request TensorBoard and Weights & Biases."""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np


class MetricsWriter(Protocol):
    """An output for the figures of each iteration."""

    def write(self, iteration: int, metrics: Mapping[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonlWriter:
    """A JSON-lines file. Each line is an object with its `iteration` and is flushed at once.

    Opening the file cuts a half-written last line, which a crash may leave, so that the next row has its own line.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.exists() and not self.path.read_bytes().endswith(b"\n"):
            self._replace(read_metrics(self.path))
        # half of a character (a lone surrogate), which JSON lines may spell, becomes `?` and ends no run
        self._file = self.path.open("a", encoding="utf-8", errors="replace")

    def write(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        self.append({"iteration": iteration, **metrics})

    def append(self, row: Mapping[str, Any]) -> None:
        """Appends a row with an `iteration` key, such as metrics or a sample."""
        self._file.write(_line(row))
        self._file.flush()

    def truncate_after(self, iteration: int) -> None:
        """Cuts the rows of later iterations, which a restored run writes again."""
        self._file.close()
        self._replace([row for row in read_metrics(self.path) if row["iteration"] <= iteration])
        self._file = self.path.open("a", encoding="utf-8", errors="replace")

    def close(self) -> None:
        self._file.close()

    def _replace(self, rows: Sequence[Mapping[str, Any]]) -> None:
        # A rename is atomic: a crash here leaves the old file or the new one, never half of either.
        temporary = self.path.with_name(self.path.name + ".tmp")
        temporary.write_text("".join(map(_line, rows)), encoding="utf-8", errors="replace")
        os.replace(temporary, self.path)


def read_metrics(path: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, without an unreadable last line (the process died while writing it).

    Raises:
        ValueError: a line before the last is unreadable, or lacks `iteration`.
    """
    lines = Path(path).read_bytes().splitlines()
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            row["iteration"]  # KeyError where it is missing, TypeError where the line is no object
        except (ValueError, KeyError, TypeError) as error:
            if number == len(lines):
                break
            raise ValueError(
                f"{path}, line {number}: every line must be a JSON object with 'iteration', got {line[:60]!r}; "
                "delete the line"
            ) from error
        rows.append(row)
    return rows


class TensorBoardWriter:
    """A writer of TensorBoard event files. After a restore it hides the points past `resume_after`."""

    def __init__(self, folder: str | os.PathLike[str], *, resume_after: int | None = None):
        require_logging_package("tensorboard")
        from torch.utils.tensorboard import SummaryWriter

        purge_step = None if resume_after is None else resume_after + 1
        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def write(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        for name, value in finite(metrics).items():
            self._writer.add_scalar(name, value, iteration)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WandbWriter:
    """A writer to Weights & Biases. `iteration` is the step of every chart, so a restored run overwrites its points.

    The run's folder stores the id that W&B gave, with which a restored run continues.
    """

    def __init__(self, project: str, folder: str | os.PathLike[str]):
        require_logging_package("wandb")
        wandb: Any = importlib.import_module("wandb")
        id_file = Path(folder).resolve() / "wandb_id"
        run_id = id_file.read_text() if id_file.exists() else None
        self._run = wandb.init(project=project, name=id_file.parent.name, id=run_id, dir=str(folder), resume="allow")
        id_file.write_text(self._run.id)
        self._run.define_metric("*", step_metric="iteration")

    def write(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        self._run.log({**finite(metrics), "iteration": iteration})

    def close(self) -> None:
        self._run.finish()


class ReportingLike(Protocol):
    """The part of the configuration's `reporting` section that `open_writers` reads."""

    @property
    def tensorboard(self) -> bool: ...

    @property
    def wandb(self) -> str | None: ...


def open_writers(
    reporting: ReportingLike, folder: str | os.PathLike[str], *, resume_after: int | None = None
) -> list[MetricsWriter]:
    """The writers of a run: always `metrics.jsonl`, and TensorBoard and W&B (a project's name) as configured.

    Args:
        resume_after: the restored iteration, or None for a new run. Later rows are cut.

    Raises:
        ValueError: a configured logging package is not installed.
    """
    for package, is_on in (("tensorboard", reporting.tensorboard), ("wandb", bool(reporting.wandb))):
        if is_on:  # checked before a file is opened, cut or created
            require_logging_package(package)
    folder = Path(folder)
    jsonl = JsonlWriter(folder / "metrics.jsonl")
    if resume_after is not None:
        jsonl.truncate_after(resume_after)
    writers: list[MetricsWriter] = [jsonl]
    if reporting.tensorboard:
        writers.append(TensorBoardWriter(folder / "tensorboard", resume_after=resume_after))
    if reporting.wandb:
        writers.append(WandbWriter(reporting.wandb, folder))
    return writers


def require_logging_package(package: str) -> None:
    """Raises ValueError with the extra to install if an optional logging package is missing."""
    if importlib.util.find_spec(package) is None:
        raise ValueError(
            f"reporting.{package} is on, but the package {package} is not installed: "
            f"pip install 'tgpo-ray[logging]', or switch reporting.{package} off (metrics.jsonl is written anyway)"
        )


def finite(metrics: Mapping[str, Any]) -> dict[str, float]:
    """The entries that are finite numbers, as floats, which a chart can show."""
    plain = {name: _plain(value) for name, value in metrics.items()}
    return {name: float(value) for name, value in plain.items() if isinstance(value, int | float)}


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(_plain(row), ensure_ascii=False, allow_nan=False) + "\n"


def _plain(value: object) -> Any:
    """The same value in JSON's types. NaN and infinities, which JSON lacks, become None."""
    if isinstance(value, np.generic | np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
