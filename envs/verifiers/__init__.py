"""Verifiers that can be killed: a pool of worker processes with a deadline for each request."""

from __future__ import annotations

from .options import VerifierOptions
from .pool import DEFAULT_DEADLINE_S, VerifierPool, close_shared_pool, shared_pool

__all__ = ["DEFAULT_DEADLINE_S", "VerifierOptions", "VerifierPool", "close_shared_pool", "shared_pool"]
