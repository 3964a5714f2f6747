"""From rows as a worker computed them to one Scores a request; rows found in the prefix cache come from group mates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from tgpo_ray.models.lean_scoring import Partings, ScoredRows
from tgpo_ray.models.scoring import Scores, ScoringRequest

SMALLEST_BLOCK = 16  # ids; the blocks of vLLM's prefix cache are a multiple of it


def distinct(requests: Sequence[ScoringRequest]) -> tuple[list[ScoringRequest], list[int]]:
    """The different requests, and for each request which of them it is: equal responses are read once.

    One without a row to score gets one, so that every field has a row to take its shape from; `cut` drops it.
    """
    indices: dict[tuple[int, bytes], int] = {}
    different, which = [], []
    for request in requests:
        if len(request.ids) == request.first:
            request = ScoringRequest(np.append(request.ids, np.int32(0)), request.first)
        index = indices.setdefault((request.first, request.ids.tobytes()), len(different))
        if index == len(different):
            different.append(request)
        which.append(index)
    return different, which


def partings_of(requests: Sequence[ScoringRequest], every: int = SMALLEST_BLOCK) -> Partings:
    """Where mates part at the end of what could be a cached block.

    Of [7 8 | 5 5 6] and [7 8 | 5 5 9] with blocks of 4 ids, the second may find its first four ids in the cache, while
    row 2, which follows them, has its own token 9 to be scored: whoever computes that row does it for both.
    """
    nodes: dict[tuple[int, bytes], int] = {}  # a trie over pieces of `every` ids
    readers: dict[int, list[int]] = {}
    partings: Partings = {}
    for index, request in enumerate(requests):
        node, begin = -request.first, 0  # prefixes are shared only at equal `first`
        for end in range(-(-request.first // every) * every, len(request.ids), every):
            node = nodes.setdefault((node, request.ids[begin:end].tobytes()), len(nodes))
            begin = end
            mates = readers.setdefault(node, [])
            for mate in mates:
                if requests[mate].ids[end] != request.ids[end]:
                    partings.setdefault(mate, []).append((end - request.first, index))
                    partings.setdefault(index, []).append((end - request.first, mate))
            mates.append(index)
    return partings


def cut(scores: Scores, request: ScoringRequest) -> Scores:
    """The scores without the row of a request that has none."""
    if len(request.ids) > request.first:
        return scores
    values = {field.name: getattr(scores, field.name) for field in fields(scores)}
    return Scores(**{name: None if value is None else value[:0] for name, value in values.items()})


def assemble(rows: ScoredRows | None, requests: Sequence[ScoringRequest]) -> list[Scores]:
    """One Scores a request.

    Row r depends on `ids[: first + r + 1]`, of which the last is the token that is scored. Where the engine found a
    prefix in its cache it computed nothing; those rows then stand with the mate that filled the cache.

    Raises:
        RuntimeError: a row that nobody computed.
    """
    if rows is None:
        raise RuntimeError("vLLM computed none of the rows")
    ends = np.cumsum([len(request.ids) - request.first for request in requests])  # (B,)
    begins = ends - [len(request.ids) - request.first for request in requests]
    source = np.full(int(ends[-1]), -1, np.int64)  # (N,) where among the computed rows each row stands
    taken = 0
    for index, start, stop in rows.spans.tolist():
        source[begins[index] + start : begins[index] + stop] = np.arange(taken, taken + stop - start)
        taken += stop - start
    if (source < 0).any():
        _borrow([source[begin:end] for begin, end in zip(begins, ends, strict=True)], requests)
    if (source < 0).any():
        raise RuntimeError(f"vLLM left {int((source < 0).sum())} of {len(source)} rows uncomputed")
    fields_of_all = {name: values[source] for name, values in rows.fields.items()}
    return [
        Scores(**{name: values[begin:end] for name, values in fields_of_all.items()})
        for begin, end in zip(begins, ends, strict=True)
    ]


def _borrow(sources: Sequence[np.ndarray], requests: Sequence[ScoringRequest]) -> None:
    """Fill what is -1 in each request's (R,) sources from mates, in place. A mate may itself have borrowed before."""
    mates: dict[tuple[int, bytes], list[int]] = {}
    for i, request in enumerate(requests):
        mates.setdefault((request.first, request.ids[: request.first].tobytes()), []).append(i)
    for group in mates.values():
        # who has most computed lends first, so that whoever borrows later can borrow from it too
        order = sorted(group, key=lambda i: int((sources[i] < 0).sum()))
        for i in order:
            for j in order:
                missing = sources[i] < 0
                if not missing.any():
                    break
                shared = _equal_rows(requests[i], requests[j])
                lent = missing[:shared] & (sources[j][:shared] >= 0)
                sources[i][:shared][lent] = sources[j][:shared][lent]


def _equal_rows(one: ScoringRequest, other: ScoringRequest) -> int:
    """How many first rows the two have in common: the tokens in which their responses agree."""
    size = min(len(one.ids), len(other.ids))
    different = one.ids[one.first : size] != other.ids[one.first : size]
    return int(different.argmax()) if different.any() else len(different)
