"""How many tokens a run of sequences costs in each layout, and the order of the sequences that makes runs cheap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from tgpo_ray.learners.side_by_side import placed
from tgpo_ray.learners.tokens import Layout

Fill = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Limits (K,) in tokens -> (K, n + 1) stops and tokens of the longest run from each start that keeps the limit.

A run has at least one sequence. From the end, n, it has none and costs nothing.
"""


def arranged(
    layout: Layout, totals: np.ndarray, prompts: np.ndarray | None, owners: np.ndarray
) -> tuple[np.ndarray, Fill]:
    """Returns the order (n,) of the sequences, as indices, and the cost of runs in that order.

    The longest come first. With shared prompts mates follow each other, and groups go by their longest sequence.

    Args:
        totals, prompts, owners: (n,) prompt + response tokens, prompt tokens, and the group of each sequence.

    Raises:
        ValueError: `shared_prompt` without `prompts`.
    """
    if layout != "shared_prompt":
        order = np.argsort(-totals, kind="stable")
        return order, partial(_fill_padded if layout == "padded" else _fill_packed, totals[order])
    if prompts is None:
        raise ValueError("layout shared_prompt plans with the lengths of the prompts: pass `prompts`")
    longest = np.zeros(owners.max(initial=0) + 1, np.int64)
    np.maximum.at(longest, owners, totals)
    order = np.lexsort((-totals, owners, -longest[owners]))
    return order, partial(_fill_shared, prompts[order], (totals - prompts)[order], owners[order])


def _fill_padded(lengths: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """B sequences of at most T tokens cost B T. `lengths` (n,) descend."""
    starts = np.arange(len(lengths) + 1)
    widths = np.append(lengths, 1)  # the last start is the end: nothing is left
    stops = np.minimum(starts + np.maximum(limits[:, None] // widths, 1), len(lengths))
    return stops, (stops - starts) * widths


def _fill_packed(lengths: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sequences cost the sum of their `lengths` (n,)."""
    return _fill_sums(lengths, np.zeros_like(lengths), limits)


def _fill_shared(
    prompts: np.ndarray, responses: np.ndarray, owners: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Sequences cost their responses, and once for each group the prompt. Mates follow each other."""
    is_first = np.ones(len(owners), np.bool_)
    is_first[1:] = owners[1:] != owners[:-1]
    # a run that begins in the middle of a group pays for the prompt as well
    return _fill_sums(responses + prompts * is_first, prompts * ~is_first, limits)


def shared_tokens(prompts: np.ndarray, responses: np.ndarray, owners: np.ndarray) -> int:
    """Tokens that a micro-batch with shared prompts computes, with what its rows leave empty."""
    _, first, group = np.unique(owners, return_index=True, return_inverse=True)
    # the last token of a prompt goes with each response
    above = placed(prompts[first] - 1)
    return above.area + placed(np.maximum(responses, 1), above.rows[group.reshape(-1)]).area


def _fill_sums(costs: np.ndarray, entrance: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A run costs the sum of its `costs` (n,), and the `entrance` (n,) of its first sequence."""
    ends = np.concatenate([[0], costs.cumsum()])  # (n + 1,) of the sequences before each start
    entrance = np.append(entrance, 0)
    starts = np.arange(len(ends))
    stops = np.searchsorted(ends, ends - entrance + limits[:, None], side="right") - 1
    stops = np.minimum(np.maximum(stops, starts + 1), len(costs))
    return stops, np.where(stops > starts, ends[stops] - ends + entrance, 0)
