"""The results of checks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MAX_SHOWN = 5  # number of findings that a report shows; it counts all of them
MAX_TEXT = 160

Status = Literal["ok", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """One fault: the index of the problem (None if it is not about one problem), and what happened there."""

    index: int | None
    text: str


@dataclass(frozen=True)
class CheckResult:
    """One line of the table, and the findings behind it."""

    name: str
    status: Status
    measured: str
    bound: str
    fix: str = ""  # printed if the check has failed
    findings: tuple[Finding, ...] = ()

    @property
    def failed(self) -> bool:
        return self.status == "failed"


def judged(name: str, findings: list[Finding], *, measured: str, bound: str, fix: str) -> CheckResult:
    """Returns a result that has failed if there are findings."""
    return CheckResult(name, "failed" if findings else "ok", measured, bound, fix, tuple(findings))


def skipped(name: str, reason: str, bound: str) -> CheckResult:
    """Returns the result of a check that has not run, with the reason."""
    return CheckResult(name, "skipped", reason, bound)


def shortened(value: object) -> str:
    """Returns the `repr` of a text, without the middle of a long one."""
    text = value if isinstance(value, str) else repr(value)
    if len(text) <= MAX_TEXT:
        return repr(text)
    return f"{text[: MAX_TEXT // 2]!r}...{text[-MAX_TEXT // 4 :]!r} ({len(text)} characters)"
