"""What a run does about SIGTERM and Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminated_by_signal() -> Iterator[None]:
    """SIGTERM ends the block as Ctrl-C does, through `finally`: schedulers send it before they kill."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    names = ["Ctrl-C"]

    def interrupt(number: int, frame: FrameType | None) -> None:
        names.append(signal.Signals(number).name)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:  # Ray raises one of its own where it was waiting
        raise KeyboardInterrupt(names[-1]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A second Ctrl-C must not leave actors behind: clean-up is bounded in time anyway."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
