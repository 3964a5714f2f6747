"""The text of single tokens."""

from __future__ import annotations

from typing import Any

import numpy as np

from tgpo_ray.guidance import TokenBytes
from tgpo_ray.reporting import Piece


def token_bytes(tokenizer: Any) -> TokenBytes | None:
    """The bytes of each token, or None where the tokenizer's strings do not say them (WordPiece)."""
    try:
        return TokenBytes.from_tokenizer(tokenizer)
    except ValueError:
        return None


def pieces_of(tokenizer: Any, spelled: TokenBytes | None, *ids: np.ndarray | None) -> dict[int, Piece]:
    """The text of each id that is in `ids`, by id. -1 is none.

    Half of a character is its bytes, and a special token is marked as one.
    """
    distinct = {int(i) for some in ids if some is not None for i in np.unique(some)} - {-1}
    return {i: _piece(tokenizer, spelled, i) for i in sorted(distinct)}


def _piece(tokenizer: Any, spelled: TokenBytes | None, i: int) -> Piece:
    if spelled is None:
        return str(tokenizer.decode([i], skip_special_tokens=False))
    if i in spelled.special:
        return {"special": spelled.special[i]}
    if i >= len(spelled.values):
        return {"special": f"<{i}>"}  # a row of the head without a token
    try:
        return spelled.values[i].decode()
    except UnicodeDecodeError:
        return {"bytes": spelled.values[i].hex()}
