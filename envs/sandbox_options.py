"""Options of the sandbox in which a response's code runs."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from .options import Options
from .sandbox import UNSAFE, Sandbox, SandboxUnavailableError

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class SandboxOptions(Options):
    """The sandbox that runs the policy's code.

    Raises:
        ValueError: for fewer than one sandbox, and for `mechanism: unsafe`.
    """

    deadline_s: float = 5.0
    """Seconds that the code and all tests of one response may take."""
    memory_bytes: int = 512 << 20
    """Address space of the code."""
    output_bytes: int = 1 << 20
    """Size of one value that the code returns."""
    verify_workers: int = 1
    """Sandboxes of this Python process that run at once."""
    mechanism: str | None = None
    """How to confine the code: `namespaces+seccomp`, `landlock+seccomp` or `namespaces`. null: the first that works."""
    unsafe: bool = False
    """Where no mechanism works, run the code with limits on time, memory and output only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.verify_workers < 1:
            raise ValueError(f"verify_workers must be >= 1, got {self.verify_workers}: somebody has to do the work")
        # Code runs without a sandbox only where `unsafe` says so and no mechanism works.
        if self.mechanism == UNSAFE:
            raise ValueError("mechanism must be a sandbox, got 'unsafe': pass unsafe=True for none where none works")

    def sandbox(self) -> Sandbox:
        """The sandbox, with a warning where it is none.

        Raises:
            SandboxUnavailableError: where no mechanism works and `unsafe` is false; it names what is missing.
        """
        limits = (self.deadline_s, self.memory_bytes, self.output_bytes)
        try:
            return Sandbox(self.mechanism, *limits)  # tries the mechanism out, once in each process
        except SandboxUnavailableError as failure:
            if not self.unsafe:
                raise SandboxUnavailableError(
                    f"{failure}. tgpo/Code-v0 runs code that a model wrote and does not start without a sandbox: allow "
                    "one (unprivileged user namespaces, or Linux 6.2 with Landlock and seccomp), or pass unsafe=True"
                ) from failure
            log.warning("tgpo/Code-v0 runs the policy's code without a sandbox, as unsafe=True says: %s", failure)
            return Sandbox(UNSAFE, *limits)
