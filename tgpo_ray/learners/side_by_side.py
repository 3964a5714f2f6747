"""The places of sequences of many lengths in rows of one width, so that little of the rows is left empty."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# of a row, in longest sequences: the wider, the less is left empty, and the more an attention mask hides
WIDTHS = (1.0, 1.0625, 1.125, 1.1875, 1.25, 1.3125, 1.375, 1.5, 1.625, 1.75, 1.875, 2.0)
FULL = 0.97  # share of a row's tokens at which no wider row is tried


class Places(NamedTuple):
    """The places of n sequences in rows of one width."""

    rows: np.ndarray  # (n,)
    offsets: np.ndarray  # (n,) of the first token in the row
    width: int  # at least 1
    num_rows: int

    @property
    def area(self) -> int:
        """Tokens of all rows, empty ones included."""
        return self.num_rows * self.width


def placed(lengths: np.ndarray, regions: np.ndarray | None = None) -> Places:
    """Returns the rows with the least area over the widths that are tried; on a tie those of the smallest width.

    Args:
        lengths: (n,) tokens of the sequences.
        regions: (n,) a row holds sequences of one region; None: all are of one.
    """
    regions = np.zeros(len(lengths), np.int64) if regions is None else regions
    longest, tokens = int(lengths.max(initial=1)), int(lengths.sum())
    best: Places | None = None
    for factor in WIDTHS:
        places = _first_fit(lengths, regions, int(longest * factor))
        best = places if best is None or places.area < best.area else best
        if tokens >= FULL * best.area:
            break
    assert best is not None
    return best


def _first_fit(lengths: np.ndarray, regions: np.ndarray, width: int) -> Places:
    """Each sequence, the longest first, in the first row of its region that has room."""
    order = np.argsort(-lengths, kind="stable")
    rows, offsets = np.zeros(len(lengths), np.int64), np.zeros(len(lengths), np.int64)
    rooms: list[int] = []  # of each row
    of_region: dict[int, list[int]] = {}
    for place, length, region in zip(order.tolist(), lengths[order].tolist(), regions[order].tolist(), strict=True):
        open_rows = of_region.setdefault(region, [])
        for row in open_rows:
            if rooms[row] >= length:
                break
        else:
            row = len(rooms)
            rooms.append(width)
            open_rows.append(row)
        rows[place], offsets[place] = row, width - rooms[row]
        rooms[row] -= length
    return Places(rows, offsets, width, len(rooms))
