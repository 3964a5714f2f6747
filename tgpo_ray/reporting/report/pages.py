"""The report of some runs' folders, with the page of their tokens beside it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tgpo_ray.reporting.tokens import write_token_page

from .page import write_report
from .record import load_run


def write_reports(
    path: str | os.PathLike[str], folders: Sequence[str | os.PathLike[str]], *, title: str | None = None
) -> list[Path]:
    """Returns the paths of the report at `path` and, where runs kept tokens, of `<name>_tokens.html` beside it.

    Args:
        title: by default the names of the runs.

    Raises:
        ValueError: a folder is no run's, or a file in it is unreadable.
    """
    path = Path(path)
    runs = [load_run(folder) for folder in folders]
    names = distinct([run.label for run in runs], [Path(folder) for folder in folders])
    runs = [replace(run, label=name) for run, name in zip(runs, names, strict=True)]
    title = ", ".join(names) if title is None else title
    named = list(zip(names, folders, strict=True))
    tokens = write_token_page(path.with_name(f"{path.stem}_tokens.html"), named, title=title, report=path.name)
    report = write_report(path, runs, title=title, tokens=tokens.name if tokens else "")
    return [report, tokens] if tokens else [report]


def distinct(labels: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """The labels, each with its folder or number where another run has the same."""
    named = [
        label if labels.count(label) == 1 else f"{label} ({folder.resolve().name})"
        for label, folder in zip(labels, folders, strict=True)
    ]
    return [name if named.count(name) == 1 else f"{name} {i + 1}" for i, name in enumerate(named)]
