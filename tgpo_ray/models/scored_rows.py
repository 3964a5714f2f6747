"""One Scores a request from the flat rows of a worker. Rows of a cached prefix come from group mates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from tgpo_ray.models.lean_scoring import Partings, ScoredRows
from tgpo_ray.models.scoring import Scores, ScoringRequest

SMALLEST_BLOCK = 16  # ids; the blocks of vLLM's prefix cache are a multiple of it


def distinct(requests: Sequence[ScoringRequest]) -> tuple[list[ScoringRequest], list[int]]:
    """Returns the different requests, and for each request the index of its equal among them.

    So the model reads equal responses once. A request without a row to score gets one, because every field takes its
    shape from a row. `cut` drops that row.
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
    """Returns the rows in which mates differ right after a block that vLLM could cache.

    Take [7 8 | 5 5 6] and [7 8 | 5 5 9] with blocks of 4 ids. The second may find its first four ids in the cache. Row
    2 follows them and scores the token 9, which only the second has. The request that computes row 2 scores it for
    both.
    """
    nodes: dict[tuple[int, bytes], int] = {}  # a trie over pieces of `every` ids
    readers: dict[int, list[int]] = {}
    partings: Partings = {}
    for index, request in enumerate(requests):
        node, begin = -request.first, 0  # only requests of equal `first` share prefixes
        # ends of blocks from the first response id on, rounded up
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
    """Returns the scores, without the row that `distinct` added to a request that has none."""
    if len(request.ids) > request.first:
        return scores
    values = {field.name: getattr(scores, field.name) for field in fields(scores)}
    return Scores(**{name: None if value is None else value[:0] for name, value in values.items()})


def assemble(rows: ScoredRows | None, requests: Sequence[ScoringRequest]) -> list[Scores]:
    """Returns one Scores a request.

    Row r depends on `ids[: first + r + 1]`, and the last of these ids is the scored token. The engine computes no rows
    for a prefix in its cache. These rows then come from the mate that filled the cache.

    Raises:
        RuntimeError: no request computed a row.
    """
    if rows is None:
        raise RuntimeError("vLLM computed none of the rows")
    ends = np.cumsum([len(request.ids) - request.first for request in requests])  # (B,)
    begins = ends - [len(request.ids) - request.first for request in requests]  # (B,)
    source = np.full(int(ends[-1]), -1, np.int64)  # (N,) index of each row among the computed rows
    taken = 0
    for index, start, stop in rows.spans.tolist():
        source[begins[index] + start : begins[index] + stop] = np.arange(taken, taken + stop - start)
        taken += stop - start
    if (source < 0).any():
        # slices are views, so `_borrow` fills `source` itself
        _borrow([source[begin:end] for begin, end in zip(begins, ends, strict=True)], requests)
    if (source < 0).any():
        raise RuntimeError(f"vLLM left {int((source < 0).sum())} of {len(source)} rows uncomputed")
    # each (N,), (N, k) or (N, D)
    fields_of_all = {name: values[source] for name, values in rows.fields.items()}
    return [
        Scores(**{name: values[begin:end] for name, values in fields_of_all.items()})
        for begin, end in zip(begins, ends, strict=True)
    ]


def _borrow(sources: Sequence[np.ndarray], requests: Sequence[ScoringRequest]) -> None:
    """Fill each -1 in the requests' (R,) sources from mates, in place. A mate may have borrowed its row before."""
    mates: dict[tuple[int, bytes], list[int]] = {}
    for i, request in enumerate(requests):
        mates.setdefault((request.first, request.ids[: request.first].tobytes()), []).append(i)
    for group in mates.values():
        # mates with most computed rows come first, so later ones can borrow what these have borrowed
        order = sorted(group, key=lambda i: int((sources[i] < 0).sum()))
        for i in order:
            for j in order:
                missing = sources[i] < 0  # (R,)
                if not missing.any():
                    break
                shared = _equal_rows(requests[i], requests[j])
                lent = missing[:shared] & (sources[j][:shared] >= 0)
                sources[i][:shared][lent] = sources[j][:shared][lent]


def _equal_rows(one: ScoringRequest, other: ScoringRequest) -> int:
    """Returns the number of first rows that the two have in common, up to the first token that differs."""
    size = min(len(one.ids), len(other.ids))
    different = one.ids[one.first : size] != other.ids[one.first : size]
    return int(different.argmax()) if different.any() else len(different)
