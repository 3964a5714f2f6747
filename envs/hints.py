"""The nearest known name for one that a user mistyped, and the check that a value is one of a few."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """`; did you mean 'plain'?` for the name in `known` that is closest to `name`, or "" where none is close."""
    close = difflib.get_close_matches(str(name), list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]!r}?" if close else ""


def check_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Checks that the option `name` has one of the allowed values.

    Raises:
        ValueError: with the allowed values and the nearest of them.
    """
    allowed = list(allowed)
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}{nearest(value, allowed)}")
