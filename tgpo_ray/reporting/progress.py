"""The progress of a run: a live line in a terminal, plain lines every few seconds in a job's log."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as RichProgress

WINDOW = 20  # iterations for the estimate of the time left; few, because lengths change while a policy learns

Format = Callable[[float], str]
COLUMNS: tuple[tuple[str, str, Format], ...] = (
    ("reward", "reward", "{:.3f}".format),
    ("evaluation/accuracy", "held-out", "{:.3f}".format),
    ("episode/response_length", "length", "{:.0f}".format),
    ("throughput/response_tokens_per_s", "tok/s", "{:,.0f}".format),
)
"""(metric, label, format) of each figure on the line."""


class Progress:
    """A context manager that shows the progress of a run of `num_iterations`.

    Figures that an iteration does not report (mostly held-out accuracy) keep their last value. Where the output is not
    a terminal, a plain line appears at most every `every_s` seconds. Evaluations and the last iteration always appear.
    """

    def __init__(
        self,
        num_iterations: int,
        title: str,
        *,
        enabled: bool = True,
        every_s: float = 5.0,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self.num_iterations = num_iterations
        self.title = title
        self.enabled = enabled
        self.every_s = every_s
        self._console = console or Console()
        self._clock = clock
        self._figures: dict[str, float] = {}  # the last value of each
        self._times: deque[tuple[int, float]] = deque(maxlen=WINDOW + 1)
        self._last_line = -float("inf")
        self._live = self._live_bar() if enabled and self._console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()  # the last state of the line stays on the screen

    def update(self, iteration: int, metrics: Mapping[str, Any]) -> None:
        """Shows the figures of `iteration` (0: the base policy's evaluation)."""
        self._times.append((iteration, self._clock()))
        self._figures.update({name: metrics[name] for name, _, _ in COLUMNS if metrics.get(name) is not None})
        if self._live:
            self._live.update(self._live.task_ids[0], completed=iteration, status=self._status())
        elif self.enabled and self._line_is_due(iteration, evaluated="evaluation/accuracy" in metrics):
            self._last_line = self._clock()
            self._print(f"{self.title}  {iteration}/{self.num_iterations}  {self._status()}")

    def note(self, text: str) -> None:
        """Prints a sentence of its own above the line."""
        if self.enabled:
            self._print(text)

    def seconds_left(self) -> float | None:
        """The estimate from the last iterations, None before the second update."""
        if len(self._times) < 2:
            return None
        (first, start), (last, now) = self._times[0], self._times[-1]
        if last <= first:  # a restored run repeats iterations
            return None
        return (now - start) / (last - first) * (self.num_iterations - last)

    def _status(self) -> str:
        parts = [f"{label} {form(self._figures[name])}" for name, label, form in COLUMNS if name in self._figures]
        left = self.seconds_left()
        return "  ".join([*parts, f"left {format_seconds(left)}"] if left else parts)

    def _line_is_due(self, iteration: int, *, evaluated: bool) -> bool:
        return evaluated or iteration >= self.num_iterations or self._clock() - self._last_line >= self.every_s

    def _print(self, text: str) -> None:
        # soft_wrap: a log line stays one line, whatever width rich believes the file to have.
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _live_bar(self) -> RichProgress:
        bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=16),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[status]}", markup=False),
            console=self._console,
            refresh_per_second=4,
        )
        bar.add_task(self.title, total=self.num_iterations, status="")
        return bar


def format_seconds(seconds: float) -> str:
    """`42 s`, `3:07` (minutes:seconds) or `2:05:09`."""
    whole = round(seconds)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}"
    return f"{minutes}:{rest:02d}" if minutes else f"{rest} s"
