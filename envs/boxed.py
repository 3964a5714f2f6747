r"""Reads `\boxed{...}` answers from text. The code lies with the mathematics verifier, whose worker loads it by path."""

from __future__ import annotations

from .verifiers.math_answer import boxed_answers, last_boxed

__all__ = ["boxed_answers", "last_boxed"]
