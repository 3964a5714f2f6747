r"""Reads `\boxed{...}` answers from text. The code is in the folder that verifier workers load."""

from __future__ import annotations

from .verifiers.math_answer import boxed_answers, last_boxed

__all__ = ["boxed_answers", "last_boxed"]
