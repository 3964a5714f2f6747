"""A verifier that never returns. Verifier processes load it by path: only the standard library."""

from __future__ import annotations

import time


def hang(*arguments: object) -> None:
    """Sleeps for ever."""
    while True:
        time.sleep(3600.0)
