"""A sandbox for Python functions that a model wrote. Linux, standard library alone."""

from __future__ import annotations

from .host import MECHANISMS, UNSAFE, Sandbox, SandboxUnavailableError, why_not

__all__ = ["MECHANISMS", "UNSAFE", "Sandbox", "SandboxUnavailableError", "why_not"]
