"""Training files from data sets: one spelling of columns, no problem twice, none of the evaluation's, traces verified.

`prepare` writes the file, a card that says what was done, and the list of the rows that were left out.
"""

from __future__ import annotations

from .card import card
from .counts import Counts
from .overlap import EvaluationProblems
from .preparing import Preparation, beside, evaluation_problems, prepare
from .sources import SOURCES, Source, source_named
from .traces import TraceFile, TraceVerifier, trace_verifier

__all__ = [
    "SOURCES",
    "Counts",
    "EvaluationProblems",
    "Preparation",
    "Source",
    "TraceFile",
    "TraceVerifier",
    "beside",
    "card",
    "evaluation_problems",
    "prepare",
    "source_named",
    "trace_verifier",
]
