"""The check that scoring has a time limit, with a verifier or a program that hangs."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol
from unittest import mock

from tgpo_ray.checks.results import CheckResult, Finding, judged, skipped
from tgpo_ray.env_runners import BUILT_IN_ENVS

from .playing import Played, Subject

HANG = f"{Path(__file__).with_name('hung_verifier.py')}:hang"
LOOP = "while True:\n    pass\n"
ANY_RESPONSE = "```python\npass\n```\n\\boxed{1}"  # for an environment without gold responses: every kind can read it
HUNG_DEADLINE_S, GRACE_S = 1.0, 2.0
SANDBOX_GRACE_S = 10.0  # its clock starts after its interpreters have started, and ours before


class HasDeadline(Protocol):
    """A verifier pool or a sandbox."""

    deadline_s: float


@dataclass(frozen=True)
class Hung:
    """A call that was made to hang, with its deadline here and the environment's own deadline."""

    what: str  # verifier | candidate
    deadline_s: float
    own_deadline_s: float
    grace_s: float
    outcomes: tuple[str, ...]  # the allowed outcomes

    @property
    def bound(self) -> str:
        return f"0.0, {' or '.join(self.outcomes)}, within {self.deadline_s + self.grace_s:g} s"


def check_deadline(subject: Subject) -> CheckResult:
    """Returns whether a verifier or a program that hangs is killed at its deadline, with that outcome.

    Each function for the verifier pool of `tgpo_ray.envs` is replaced by one that never returns. Each program for the
    sandbox is replaced by an endless loop, under the environment's own deadline.
    """
    bound = "a hung verifier is killed"
    if not subject.indices:
        return skipped("deadline", "no problem to play", bound)
    index = subject.indices[0]
    response = subject.gold(index) or (ANY_RESPONSE,)
    hangs: list[Hung] = []
    played = subject.play(index, response, _hanging(hangs))
    if not hangs:
        reason = "nothing went to a VerifierPool or a sandbox: scores come from this process, where nothing is killed"
        return skipped("deadline", reason, bound)
    hung = hangs[0]
    seconds = float(played.info.get("verify_s", played.seconds))
    findings = [Finding(index, problem) for problem in _problems(hung, played, seconds)]
    given = f"deadline {hung.own_deadline_s:g} s"
    if hung.deadline_s != hung.own_deadline_s:
        given = f"deadline {hung.deadline_s:g} s here, else {hung.own_deadline_s:g} s"
    measured = f"a hung {hung.what} was killed after {seconds:.2f} s ({given})"
    fix = "return the verdict of the pool or the sandbox as it is, with its outcome"
    return judged("deadline", findings, measured=measured, bound=hung.bound, fix=fix)


def _problems(hung: Hung, played: Played, seconds: float) -> Iterator[str]:
    if played.info.get("outcome") not in hung.outcomes or played.reward != 0.0:
        yield f"a hung {hung.what} gave {played.outcome_text}"
    if seconds > hung.deadline_s + hung.grace_s:
        yield f"a hung {hung.what} was waited for {seconds:.1f} s"


@contextlib.contextmanager
def _hanging(hangs: list[Hung]) -> Iterator[None]:
    """A context in which verifiers of all pools and code of all sandboxes hang; `hangs` receives those that did."""
    pool_class: Any = importlib.import_module(f"{BUILT_IN_ENVS}.verifiers").VerifierPool
    sandbox_class: Any = importlib.import_module(f"{BUILT_IN_ENVS}.sandbox").Sandbox
    submit, run = pool_class.submit, sandbox_class.run

    def hung_submit(pool: HasDeadline, verifier: object, *args: object, deadline_s: float | None = None) -> Any:
        own = pool.deadline_s if deadline_s is None else deadline_s
        hangs.append(Hung("verifier", HUNG_DEADLINE_S, own, GRACE_S, ("timeout",)))
        return submit(pool, HANG, *args, deadline_s=HUNG_DEADLINE_S)

    def hung_run(sandbox: HasDeadline, source: str, *args: object, **kwargs: object) -> Any:
        own = sandbox.deadline_s
        hangs.append(Hung("candidate", own, own, SANDBOX_GRACE_S, ("wrong", "timeout")))  # slow code is the policy's
        return run(sandbox, LOOP, *args, **kwargs)

    with mock.patch.object(pool_class, "submit", hung_submit), mock.patch.object(sandbox_class, "run", hung_run):
        yield
