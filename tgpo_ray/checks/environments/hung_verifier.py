"""A verifier that never returns. Verifier processes load it by path, so it imports only the standard library."""

from __future__ import annotations

import time


def hang(*arguments: object) -> None:
    """Sleep without end."""
    while True:
        time.sleep(3600.0)
