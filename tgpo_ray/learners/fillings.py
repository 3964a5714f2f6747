"""How many tokens a run of sequences costs in each layout, and the order of the sequences that makes runs cheap."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product

import numpy as np

from tgpo_ray.learners.layouts import Layout

Fill = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Limits (K,) in tokens -> (K, n + 1) stops and tokens of the longest run from each start that keeps the limit.

A run has at least one sequence. From the end, n, it has none and costs nothing.
"""

SPREADS = (1.0, 1.2, 1.5, 2.0, 4.0, np.inf)  # longest over shortest response of mates that are kept together


def arranged(
    layout: Layout,
    totals: np.ndarray,
    prompts: np.ndarray | None,
    owners: np.ndarray,
    token_budget: int,
    num_ranks: int,
) -> tuple[np.ndarray, Fill]:
    """Returns the order (n,) of the sequences, as indices, and the cost of runs in that order.

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
    responses = totals - prompts
    orders = [_kept_together(prompts, responses, owners, *choice) for choice in product(SPREADS, (True, False))]
    share = _least_tokens(prompts, responses, owners) // num_ranks + 1
    limit = min(token_budget, share)  # a step of few sequences is dealt over all ranks

    def cost(order: np.ndarray) -> float:
        return _greedy_tokens(prompts[order], responses[order], owners[order], limit)

    order = min(orders, key=cost)
    return order, partial(_fill_shared, prompts[order], responses[order], owners[order])


def _fill_padded(lengths: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """B sequences of at most T tokens cost B T. `lengths` (n,) descend."""
    starts = np.arange(len(lengths) + 1)
    widths = np.append(lengths, 1)  # the last start is the end: nothing is left
    stops = np.minimum(starts + np.maximum(limits[:, None] // widths, 1), len(lengths))
    return stops, (stops - starts) * widths


def _fill_packed(lengths: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sequences cost the sum of their `lengths` (n,)."""
    ends = np.concatenate([[0], lengths.cumsum()])  # (n + 1,) tokens before each start
    starts = np.arange(len(ends))
    stops = np.searchsorted(ends, ends + limits[:, None], side="right") - 1
    stops = np.minimum(np.maximum(stops, starts + 1), len(lengths))
    return stops, ends[stops] - ends


def _fill_shared(
    prompts: np.ndarray, responses: np.ndarray, owners: np.ndarray, limits: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """m distinct prompts of at most P tokens and B responses of at most R cost m P + B R."""
    count = len(prompts)
    stops = np.full((len(limits), count + 1), count, np.int64)
    tokens = np.zeros_like(stops)
    before = _previous_mate(owners)
    ends = np.concatenate([[0], responses.cumsum()])
    # responses alone reach the largest limit there at the latest
    reach = np.searchsorted(ends, ends[:-1] + limits[-1], side="right").clip(max=count)
    for start in range(count):
        run = slice(start, max(reach[start], start + 1))
        distinct = (before[run] < start).cumsum()
        sizes = distinct * np.maximum.accumulate(prompts[run])
        sizes += np.arange(1, len(sizes) + 1) * np.maximum.accumulate(responses[run])
        lengths = sizes.searchsorted(limits, side="right").clip(min=1)  # (K,)
        stops[:, start] = start + lengths
        tokens[:, start] = sizes[lengths - 1]
    return stops, tokens


def _previous_mate(owners: np.ndarray) -> np.ndarray:
    """(n,) the place of the last sequence before each one that is of the same group; -1 where there is none."""
    order = np.argsort(owners, kind="stable")
    before = np.full(len(owners), -1)
    same = owners[order[1:]] == owners[order[:-1]]
    before[order[1:][same]] = order[:-1][same]
    return before


def _kept_together(
    prompts: np.ndarray, responses: np.ndarray, owners: np.ndarray, spread: float, by_prompt: bool
) -> np.ndarray:
    """(n,) an order with mates next to each other whose responses differ by at most the factor `spread`.

    Longer responses come first. Mates of one band of lengths are ordered by their prompt or by their longest response.
    """
    lengths = np.maximum(responses, 1)
    if spread == 1.0:
        bands = -lengths
    else:
        bands = (
            np.floor(np.log(lengths.max(initial=1) / lengths) / np.log(spread)) if np.isfinite(spread) else 0 * lengths
        )
    _, together = np.unique(np.stack([bands, owners]), axis=1, return_inverse=True)  # (n,)
    together = together.reshape(-1)
    longest = np.zeros(len(owners), np.int64)
    np.maximum.at(longest, together, lengths)
    first = (-longest[together], -prompts) if not by_prompt else (-prompts, -longest[together])
    return np.lexsort((np.arange(len(owners)), -lengths, owners, first[1], first[0], bands))


def _least_tokens(prompts: np.ndarray, responses: np.ndarray, owners: np.ndarray) -> int:
    """Each prompt once and all responses, without padding."""
    return int(prompts[np.unique(owners, return_index=True)[1]].sum() + responses.sum())


def _greedy_tokens(prompts: np.ndarray, responses: np.ndarray, owners: np.ndarray, limit: int) -> int:
    """What micro-batches cost that are filled one by one up to the limit, each with a share of a step's cost."""
    per_step = limit // 32
    total = size = num_prompts = num_responses = longest_prompt = longest_response = 0
    seen: set[int] = set()
    for prompt, response, owner in zip(prompts.tolist(), responses.tolist(), owners.tolist(), strict=True):
        longest_prompt, longest_response = max(longest_prompt, prompt), max(longest_response, response)
        num_prompts, num_responses = num_prompts + (owner not in seen), num_responses + 1
        larger = num_prompts * longest_prompt + num_responses * longest_response
        if size and larger > limit:
            total += size + per_step
            seen.clear()
            num_prompts = num_responses = 1
            longest_prompt, longest_response = prompt, response
            larger = prompt + response
        seen.add(owner)
        size = larger
    return total + size + per_step
