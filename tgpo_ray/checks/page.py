"""The table that a preflight prints."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tgpo_ray.checks.results import MAX_SHOWN, CheckResult

if TYPE_CHECKING:
    from rich.console import Console


class PreflightError(RuntimeError):
    """Something is wrong with what a run would stand on; the message names each failed check and its fix."""


def refuse_failed(results: Iterable[CheckResult]) -> int:
    """The number of checks that have passed.

    Raises:
        PreflightError: some have failed.
    """
    results = list(results)
    failed = [it for it in results if it.failed]
    if failed:
        said = (f"{it.name}: {'; '.join(row.text for row in it.rows[:MAX_SHOWN])} (fix: {it.fix})" for it in failed)
        raise PreflightError(
            f"preflight: {' | '.join(said)}. `tgpo-ray preflight` prints all checks, --no-preflight goes on regardless"
        )
    return sum(it.status == "ok" for it in results)


COLOURS = {"ok": "green", "failed": "red", "skipped": "yellow"}


def print_results(title: str, results: Sequence[CheckResult], console: Console | None = None) -> bool:
    """What each check measured and its bound, and the fix of those that failed. Returns whether nothing has failed."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    failed = [result for result in results if result.failed]
    table = Table("check", "", "measured", "bound", title=title, title_justify="left")
    for result in results:
        status = Text(result.status, style=COLOURS[result.status])
        table.add_row(Text(result.name), status, Text(result.measured), Text(result.bound))
    console = console or Console()
    console.print(table)
    for result in failed:
        for row in result.rows[:MAX_SHOWN]:
            console.print(Text(f"{result.name}: {row.text}"))
        console.print(Text(f"{result.name}: {result.fix}"))
    console.print(Text(f"failed: {', '.join(it.name for it in failed)}" if failed else "nothing is wrong"))
    return not failed
