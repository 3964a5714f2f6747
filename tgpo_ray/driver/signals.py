"""The handling of SIGTERM and Ctrl-C in a run."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


class Notice:
    """A SIGTERM, which tells a run that its process is to end soon, as that of a spot machine or a cancelled job.

    The run makes a checkpoint first, if it can. What goes on meanwhile is interrupted at once where `can_save` is true,
    and otherwise after `grace_s` seconds, if it does not end before. A second signal interrupts at once, and the run
    then ends without a checkpoint, as after Ctrl-C.
    """

    def __init__(self, grace_s: float = 0.0) -> None:
        self.grace_s = grace_s
        # whether a checkpoint can be made at this moment; None: there is nothing to save yet, and nothing waits
        self.can_save: Callable[[], bool] | None = None
        self.names: list[str] = []  # of the signals so far
        self._held = ""
        self._timer: threading.Timer | None = None  # of the grace
        self._grace_is_over = False

    @property
    def given(self) -> bool:
        """Whether a checkpoint is wanted before the end: there was one SIGTERM, and no other signal."""
        return self.names == ["SIGTERM"]

    def check(self) -> None:
        """Raises KeyboardInterrupt after a signal. The loop asks it between iterations."""
        if self.names:
            self.disarm()
            raise KeyboardInterrupt(self.names[-1])

    @contextmanager
    def held(self, *, without_limit: bool = False) -> Iterator[None]:
        """A block that the notice does not interrupt at once, as an evaluation, but after `grace_s`.

        Args:
            without_limit: it is not interrupted at all, as a checkpoint that is being written.
        """
        before, self._held = self._held, "for good" if without_limit else "for the grace"
        if without_limit:
            self.disarm()
        try:
            yield
        finally:
            self._held = before

    def receive(self, number: int, frame: FrameType | None = None) -> None:
        """Take a signal, as its handler in the main thread."""
        if self._grace_is_over:
            self._grace_is_over = False
            if self._timer is None:  # it was disarmed at the last moment
                return
        else:
            self.names.append(signal.Signals(number).name)
            if self.given and self.grace_s > 0 and self.can_save is not None and (self._held or not self.can_save()):
                if self._held != "for good":
                    self._timer = threading.Timer(self.grace_s, self._end_grace)
                    self._timer.daemon = True
                    self._timer.start()
                return
        self.disarm()
        raise KeyboardInterrupt

    def _end_grace(self) -> None:
        self._grace_is_over = True
        # a signal interrupts whatever the main thread waits for
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)

    def disarm(self) -> None:
        """Interrupt nothing at the end of the grace."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


@contextmanager
def terminated_by_signal(grace_s: float = 0.0) -> Iterator[Notice]:
    """A block that SIGTERM ends as Ctrl-C does, through `finally`. Schedulers send SIGTERM before they kill.

    Yields the notice, with which the block decides what a first SIGTERM interrupts. Without that it is all.
    """
    notice = Notice(grace_s)
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield notice
        return

    before = {number: signal.signal(number, notice.receive) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield notice
    except KeyboardInterrupt as error:  # Ray raises another, without a name, where it was waiting
        named = KeyboardInterrupt((notice.names or ["Ctrl-C"])[-1])
        for note in getattr(error, "__notes__", []):
            named.add_note(note)
        raise named from None
    finally:
        notice.disarm()
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
