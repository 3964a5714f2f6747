"""A watch over Ray's head process (GCS). Ray ends a driver that has lost it in native code, without a Python error."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import ray

PATIENCE = "RAY_gcs_rpc_server_reconnect_timeout_s"
"""Ray's own variable: after as many seconds without an answer it ends the process. Before, the head may come back."""
POLL_S, ANSWER_S, BEFORE_S = 1.0, 2.0, 4.0
EXIT_STATUS = 1


@contextlib.contextmanager
def watched_head(way_on: Callable[[], str]) -> Iterator[None]:
    """A block in which the loss of the head ends the process with a line that says so, and with `way_on`.

    Ray would end it a few seconds later with a message of its own. What was written to disk stays.
    """
    over = threading.Event()
    host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    arguments = ((host.strip("[]"), int(port)), over, way_on)
    threading.Thread(target=_watch, args=arguments, name="head-watch", daemon=True).start()
    try:
        yield
    finally:
        over.set()


def _watch(address: tuple[str, int], over: threading.Event, way_on: Callable[[], str]) -> None:
    patience_s = max(1.0, float(os.environ.get(PATIENCE, "60")) - BEFORE_S)
    heard = time.monotonic()
    while not over.wait(POLL_S):
        if _answers(address):
            heard = time.monotonic()
        elif time.monotonic() - heard > patience_s and not over.is_set():
            _end(f"the run failed: Ray's head process (GCS) at {address[0]}:{address[1]} has not answered for "
                 f"{patience_s:.0f} s ({PATIENCE}); {way_on()}")  # fmt: skip


def _answers(address: tuple[str, int]) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection(address, timeout=ANSWER_S).close()
        return True
    return False


def _end(message: str) -> None:
    sys.stdout.flush()
    print(message, file=sys.stderr, flush=True)
    os._exit(EXIT_STATUS)
