"""RunLog, which writes the rows of a run into its folder."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tgpo_ray.driver.evaluation import sample_rows
from tgpo_ray.reporting import JsonlWriter, MetricsWriter, TokenEpisode, TokenFiles, open_writers, read_metrics

if TYPE_CHECKING:
    from tgpo_ray.config import ReportingConfig
    from tgpo_ray.driver import Metrics
    from tgpo_ray.episode import SampledGroup


class RunLog:
    """The writers of metrics and of some episodes' texts, with the run's totals of tokens and seconds.

    Args:
        folder: the run's folder, which exists.
        resume_after: the restored iteration, or None for a new run. Later rows are cut, and the totals continue from
            its row.
    """

    def __init__(self, folder: Path, reporting: ReportingConfig, resume_after: int | None) -> None:
        self._rows = folder / "metrics.jsonl"
        last = {} if resume_after is None else _last_row(self._rows, resume_after)
        self._seconds_before: float = last.get("time/total_s", 0.0)
        self._tokens: float = last.get("tokens/total", 0.0)
        self._writers: list[MetricsWriter] = open_writers(reporting, folder, resume_after=resume_after)
        self._samples = JsonlWriter(folder / "samples.jsonl")
        self._tokens_of_episodes = TokenFiles(folder)
        if resume_after is not None:
            self._samples.truncate_after(resume_after)
            self._tokens_of_episodes.truncate_after(resume_after)
        self._start = time.monotonic()

    def write(self, iteration: int, metrics: Metrics) -> Metrics:
        """Returns the row of an iteration, its metrics and the run's totals, after writing it."""
        self._tokens += metrics.get("tokens/response", 0.0)
        seconds = self._seconds_before + time.monotonic() - self._start
        row = metrics | {"tokens/total": self._tokens, "time/total_s": seconds}
        for writer in self._writers:
            writer.write(iteration, row)
        return row

    def write_samples(self, groups: Iterable[SampledGroup], iteration: int, phase: str) -> None:
        """Writes the texts of these groups."""
        for row in sample_rows(groups, iteration, phase):
            self._samples.append(row)

    def write_tokens(self, iteration: int, episodes: Sequence[TokenEpisode]) -> None:
        """Writes these episodes token by token."""
        self._tokens_of_episodes.write(iteration, episodes)

    def take_back(self, iteration: int) -> None:
        """Cuts the rows after `iteration`, to which the learners went back, and their tokens."""
        # TensorBoard and W&B take no rows back: the repeated iterations overwrite theirs.
        for writer in [*self._writers, self._samples]:
            if isinstance(writer, JsonlWriter):
                writer.truncate_after(iteration)
        self._tokens_of_episodes.truncate_after(iteration)
        self._tokens = _last_row(self._rows, iteration).get("tokens/total", 0.0)

    def close(self) -> None:
        """Closes every writer."""
        for writer in [*self._writers, self._samples]:
            writer.close()


def _last_row(path: Path, iteration: int) -> Metrics:
    """The last row up to `iteration`, empty where there is none: a run that began from another's checkpoint."""
    if not path.exists():
        return {}
    rows = [row for row in read_metrics(path) if row["iteration"] <= iteration]
    return rows[-1] if rows else {}
