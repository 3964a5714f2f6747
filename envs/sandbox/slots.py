"""A limit on the sandboxes that run at once: each is three processes, and a runner may have hundreds of threads."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator

_free = threading.Condition()
_running: tuple[int, int] = (0, 0)  # the process that counts, and its number


@contextlib.contextmanager
def slot(limit: int) -> Iterator[None]:
    """Waits until fewer than `limit` sandboxes of this process run, then counts one more for the `with` block."""
    with _free:
        _free.wait_for(lambda: _count() < limit)
        _add(1)
    try:
        yield
    finally:
        with _free:
            _add(-1)
            _free.notify_all()


def _count() -> int:
    return _running[1] if _running[0] == os.getpid() else 0  # a forked child has none of its parent's threads


def _add(number: int) -> None:
    global _running
    _running = (os.getpid(), max(0, _count() + number))
