"""The handling of SIGTERM and Ctrl-C in a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def terminated_by_signal() -> Iterator[None]:
    """A block that SIGTERM ends as Ctrl-C does, through `finally`. Schedulers send SIGTERM before they kill."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield
        return

    names = ["Ctrl-C"]

    def interrupt(number: int, frame: FrameType | None) -> None:
        names.append(signal.Signals(number).name)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    except KeyboardInterrupt:  # Ray raises another, without a name, where it was waiting
        raise KeyboardInterrupt(names[-1]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """A block that ignores Ctrl-C, so that a second one leaves no actors behind. Clean-up has time limits."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
