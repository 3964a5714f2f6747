"""The table of check results, for a preflight and for an environment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from tgpo_ray.checks.results import MAX_SHOWN, CheckResult

if TYPE_CHECKING:
    from rich.console import Console


class PreflightError(RuntimeError):
    """A check before a run has failed. The message names each failed check and its fix."""


def refuse_failed(results: Iterable[CheckResult]) -> int:
    """Returns the number of checks that have passed.

    Raises:
        PreflightError: a check has failed.
    """
    results = list(results)
    failed = [it for it in results if it.failed]
    if failed:
        raise PreflightError(
            f"preflight: {' | '.join(map(_reason, failed))}. `tgpo-ray preflight` prints all checks, --no-preflight "
            "goes on regardless"
        )
    return sum(it.status == "ok" for it in results)


def _reason(result: CheckResult) -> str:
    texts = "; ".join(finding.text for finding in result.findings[:MAX_SHOWN])
    return f"{result.name}: {texts} (fix: {result.fix})"


COLOURS = {"ok": "green", "failed": "red", "skipped": "yellow"}


def print_results(title: str, results: Sequence[CheckResult], console: Console | None = None) -> bool:
    """Returns whether nothing has failed, and prints each check with its measurement, bound, findings and fix."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("check", "", "measured", "bound", title=title, title_justify="left")
    for result in results:
        status = Text(result.status, style=COLOURS[result.status])
        table.add_row(Text(result.name), status, Text(result.measured), Text(result.bound))
    console = console or Console()
    console.print(table)
    for line in _lines(results):
        console.print(Text(line))
    return not any(result.failed for result in results)


def _lines(results: Sequence[CheckResult]) -> Iterator[str]:
    """Yields findings and fixes, and the names of the failed checks."""
    for result in results:
        for finding in result.findings[:MAX_SHOWN]:
            where = "" if finding.index is None else f"problem {finding.index}: "
            yield f"{result.name}: {where}{finding.text}"
        if len(result.findings) > MAX_SHOWN:
            yield f"{result.name}: {len(result.findings) - MAX_SHOWN} more"
        if result.failed:
            yield f"{result.name}: {result.fix}"
    failed = [result.name for result in results if result.failed]
    yield f"failed: {', '.join(failed)}" if failed else "nothing is wrong"
