"""Worker processes that verify responses, killed and replaced at a deadline.

Each worker has an owner thread, which starts it, sends it one request at a time, and kills it when time is up. Callers
only put requests on a queue and wait on futures, so threads, async code and Ray actors can all use a pool. Workers are
plain subprocesses, never forks of a process that holds an engine, threads and gRPC.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import queue
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from ..verdict import ERROR, Verdict
from .process import WorkerProcess

DEFAULT_DEADLINE_S = 5.0
DEFAULT_MEMORY_BYTES = 4 * 2**30

Verifier = str | Callable[..., Any]


@dataclass(frozen=True, slots=True)
class _Request:
    target: str
    args: tuple[Any, ...]
    deadline_s: float
    future: Future[Verdict] = field(default_factory=Future)


class VerifierPool:
    """Runs verifier functions in processes of their own, each request under a deadline.

    A verifier is a module-level function, or its name as `module:function` or `/path/file.py:function`. Its arguments
    are JSON values. It returns a bool, a number, or a mapping that `Verdict.from_value` accepts. A request that runs
    out of time, raises, or ends its worker yields a `Verdict` with the outcome `timeout` or `error`. A worker that is
    killed from outside is replaced, and its request is tried once more. No request is lost, and no failure becomes a
    silent zero. Workers start with the first request, all with the same PYTHONHASHSEED.
    The function's attribute `before_deadline` may load what the function needs. It is called first with the same
    arguments, and no deadline counts it.

    Args:
        num_workers: processes, and so requests that run at once.
        deadline_s: seconds a verifier may run, without queueing and imports.
        memory_bytes: address space of a worker. A worker that used half of it is replaced after its request.
    """

    def __init__(
        self, num_workers: int = 1, *, deadline_s: float = DEFAULT_DEADLINE_S, memory_bytes: int = DEFAULT_MEMORY_BYTES
    ) -> None:
        if num_workers < 1:
            raise ValueError(f"num_workers must be >= 1, got {num_workers}: somebody has to do the work")
        self.deadline_s = _checked_deadline(deadline_s)
        self.outcomes: Counter[str] = Counter()
        self.restarts = 0
        self._memory_bytes = memory_bytes
        self._queue: queue.SimpleQueue[_Request | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._owners: list[threading.Thread] = []
        self._workers: set[WorkerProcess] = set()
        self._pid = os.getpid()
        self._num_workers = num_workers
        self._closed = False

    @property
    def num_workers(self) -> int:
        return self._num_workers

    @property
    def closed(self) -> bool:
        """True after `close`, and in a forked child, where the owner threads do not exist."""
        return self._closed or self._pid != os.getpid()

    def submit(self, verifier: Verifier, *args: Any, deadline_s: float | None = None) -> Future[Verdict]:
        """A future of the verdict. A failing verifier never makes it raise.

        Raises:
            RuntimeError: when the pool is closed.
            ValueError: when the verifier is not a function that another process can import.
        """
        deadline_s = self.deadline_s if deadline_s is None else _checked_deadline(deadline_s)
        request = _Request(target_of(verifier), args, deadline_s)
        with self._lock:
            if self.closed:
                raise RuntimeError("the verifier pool is closed: make a new one, or call shared_pool() again")
            self._start_owners()
            self._queue.put(request)
        return request.future

    def verify(self, verifier: Verifier, *args: Any, deadline_s: float | None = None) -> Verdict:
        """The verdict; waits for it in this thread."""
        return self.submit(verifier, *args, deadline_s=deadline_s).result()

    async def verify_async(self, verifier: Verifier, *args: Any, deadline_s: float | None = None) -> Verdict:
        """The verdict, for async code."""
        return await asyncio.wrap_future(self.submit(verifier, *args, deadline_s=deadline_s))

    def grow(self, num_workers: int) -> None:
        """Has at least `num_workers` workers from the next request on."""
        with self._lock:
            self._num_workers = max(self._num_workers, num_workers)

    def close(self) -> None:
        """Kills and reaps every worker. Requests waiting or running end as `error`. A second call does nothing."""
        if self.closed:
            return
        with self._lock:
            self._closed = True
            waiting = self._drain()
            for worker in self._workers:
                worker.interrupt()
            for _ in self._owners:  # each owner's loop ends at one None
                self._queue.put(None)
        for request in waiting:
            if request.future.set_running_or_notify_cancel():  # False where the caller has cancelled it
                request.future.set_result(Verdict(0.0, ERROR, detail="the verifier pool was closed"))
        for owner in self._owners:  # outside the lock, which they take to leave
            owner.join()
        atexit.unregister(self.close)

    def __enter__(self) -> VerifierPool:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> Any:
        raise TypeError("a VerifierPool holds processes and cannot be pickled: call shared_pool() where it is needed")

    def _start_owners(self) -> None:
        if not self._owners:
            atexit.register(self.close)
        while len(self._owners) < self._num_workers:
            # A daemon: the interpreter waits for other threads before it calls `close` at its exit.
            owner = threading.Thread(target=self._own, name=f"verifier-{len(self._owners)}", daemon=True)
            owner.start()
            self._owners.append(owner)

    def _drain(self) -> list[_Request]:
        requests: list[_Request] = []
        with contextlib.suppress(queue.Empty):
            while True:
                request = self._queue.get_nowait()
                if request is not None:
                    requests.append(request)
        return requests

    def _own(self) -> None:
        """Serves requests until the pool closes. The kernel kills a worker together with the thread that started it."""
        worker: WorkerProcess | None = None
        while (request := self._queue.get()) is not None:
            if not request.future.set_running_or_notify_cancel():
                continue
            verdict, worker = self._answered(request, worker)
            if worker is not None and worker.killed:  # from outside, which says nothing about the request
                worker = self._replaced(worker, request.target)
                if worker is not None:
                    verdict, worker = self._answered(request, worker)
            with self._lock:
                self.outcomes[verdict.outcome] += 1
            request.future.set_result(verdict)
            if worker is not None and worker.spent:
                worker = self._replaced(worker, request.target)
        if worker is not None:
            self._ended(worker)

    def _answered(self, request: _Request, worker: WorkerProcess | None) -> tuple[Verdict, WorkerProcess | None]:
        """Returns the verdict and the worker that gave it."""
        try:
            worker = worker or self._started()
            return worker.call(request.target, request.args, request.deadline_s), worker
        except Exception as failure:  # as when no process can start: the caller must still get an answer
            return Verdict.of_failure(failure), worker

    def _started(self) -> WorkerProcess:
        with self._lock:  # so that `close` sees every worker
            if self._closed:
                raise RuntimeError("the verifier pool was closed")
            worker = WorkerProcess(self._memory_bytes)
            self._workers.add(worker)
        return worker

    def _ended(self, worker: WorkerProcess) -> None:
        with self._lock:
            self._workers.discard(worker)
        worker.kill()

    def _replaced(self, worker: WorkerProcess, target: str) -> WorkerProcess | None:
        self._ended(worker)
        with self._lock:
            self.restarts += 1
        with contextlib.suppress(OSError, RuntimeError):  # closed, or no process can start: the next request reports it
            fresh = self._started()
            fresh.preload(target)
            return fresh
        return None


def target_of(verifier: Verifier) -> str:
    """`module:function` or `/path/file.py:function` of a module-level function.

    Raises:
        ValueError: for lambdas, local functions and methods, which another process cannot import.
    """
    if isinstance(verifier, str):
        if not all(verifier.rpartition(":")[::2]):
            raise ValueError(f"verifier must look like 'module:function' or '/path/file.py:function', got {verifier!r}")
        return verifier
    module, name = getattr(verifier, "__module__", None), getattr(verifier, "__qualname__", "<")
    if module is None or "<" in name:
        raise ValueError(f"verifier must be a module-level function, got {verifier!r}: its process imports it by name")
    if module == "__main__":  # the worker has a `__main__` of its own
        return f"{os.path.abspath(verifier.__code__.co_filename)}:{name}"
    return f"{module}:{name}"


def _checked_deadline(deadline_s: float) -> float:
    if not 0 < deadline_s < float("inf"):
        raise ValueError(f"deadline_s must be a positive number of seconds, got {deadline_s}")
    return float(deadline_s)


_shared: tuple[int, VerifierPool] | None = None
_shared_lock = threading.Lock()


def shared_pool(num_workers: int = 1) -> VerifierPool:
    """This process's pool, made on first use and grown to `num_workers`; environments share it."""
    global _shared
    with _shared_lock:
        if _shared is None or _shared[0] != os.getpid() or _shared[1].closed:  # a forked child has no owner threads
            _shared = (os.getpid(), VerifierPool(num_workers))
        pool = _shared[1]
    pool.grow(num_workers)
    return pool


def close_shared_pool() -> None:
    """Ends the shared pool's processes, as the interpreter's exit does; the next `shared_pool()` makes a new one."""
    if _shared is not None and _shared[0] == os.getpid():
        _shared[1].close()
