"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_SHOWN = 5  # findings that a report shows; all are counted
MAX_TEXT = 160

Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One thing to look at: a problem by its index (None: not about one problem) and what happened there."""

    index: int | None
    text: str


@dataclass(frozen=True)
class CheckResult:
    """One line of the table, and the findings behind it."""

    name: str
    status: Status
    measured: str
    bound: str
    fix: str = ""  # said where the check failed
    findings: tuple[Finding, ...] = ()

    @property
    def failed(self) -> bool:
        return self.status == "failed"


def judged(name: str, findings: list[Finding], *, measured: str, bound: str, fix: str) -> CheckResult:
    """Failed where there are findings."""
    return CheckResult(name, "failed" if findings else "ok", measured, bound, fix, tuple(findings))


def skipped(name: str, reason: str, bound: str) -> CheckResult:
    """Not run, and why."""
    return CheckResult(name, "skipped", reason, bound)


def shortened(value: object) -> str:
    """`repr` of a text, cut in the middle of what is long."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= MAX_TEXT:
        return repr(text)
    return f"{text[: MAX_TEXT // 2]!r}...{text[-MAX_TEXT // 4 :]!r} ({len(text)} characters)"
