r"""Reads mathematical answers and compares them. The verifier's worker loads this folder by its path.

    boxes, extraction       where the answer stands in a response
    characters, normalise, code_style    one spelling
    splitting, reading, numerals, units  lists and brackets; a value, its name, its unit
    comparing, formulas     whether two answers are the same; latex2sympy and sympy for formulas
    gold                    whether a gold answer can be read whole

`score` needs sympy and is imported when it is first used: a trainer's process reads gold answers without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .boxes import boxed_answers, boxes, last_boxed
from .gold import check_gold

if TYPE_CHECKING:
    from .judging import score

__all__ = ["boxed_answers", "boxes", "check_gold", "last_boxed", "score"]


def __getattr__(name: str) -> Any:
    if name == "score":
        from .judging import score

        return score
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
