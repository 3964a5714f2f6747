"""Requests to scorers, and fields of their answers that a test has asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tgpo_ray.models import ScoringRequest


def request(ids: Sequence[int] | np.ndarray, first: int) -> ScoringRequest:
    """`ids` from `first` on are to be scored."""
    return ScoringRequest(np.asarray(ids, np.int32), first)


def given(values: np.ndarray | None) -> np.ndarray:
    """The field, which is there."""
    assert values is not None
    return values
