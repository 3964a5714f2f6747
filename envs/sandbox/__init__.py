"""A sandbox for Python functions that a model wrote. It needs Linux and only the standard library."""

from __future__ import annotations

from .host import MECHANISMS, UNSAFE, Sandbox, SandboxUnavailableError, why_not

__all__ = ["MECHANISMS", "UNSAFE", "Sandbox", "SandboxUnavailableError", "why_not"]
