"""The process of the tests. It starts the candidate's process before it reads a test, and talks to it over two pipes.

The asserts run in another process than the candidate. So nothing that the candidate does to its own interpreter
(built-ins, `sys.exit`, frames, memory) reaches them. Here it can only answer a call.
"""

from __future__ import annotations

import builtins
import math
import os
import signal
import sys
from types import ModuleType
from typing import Any

from . import candidate, wire

MAX_DETAIL = 300
SETUP_FILE, TEST_FILE = "<setup>", "<test>"
ENTRY = 0  # handle of the entry point
SOLUTION = "solution"  # tests may import the candidate from a module of this name


class CandidateGoneError(BaseException):
    """The candidate's process ended or sent an invalid reply. No `except Exception` of a test may catch it."""


class BadTestError(BaseException):
    """A test that cannot be run here, whatever the candidate does. The candidate cannot cause it."""


class Remote:
    """An object of the candidate that is not plain data. It can be called, read and iterated, but not compared."""

    def __init__(self, link: Link, number: int) -> None:
        self._link, self._number = link, number

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._link.ask("call", self, *args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # Python itself asks for these, as when it copies or prints an object
            raise AttributeError(name)
        return self._link.ask("getattr", self, name)

    def __getitem__(self, key: Any) -> Any:
        return self._link.ask("getitem", self, key)

    def __iter__(self) -> Any:
        return self._link.ask("iter", self)

    def __next__(self) -> Any:
        return self._link.ask("next", self)

    def __len__(self) -> int:
        return self._link.ask("len", self)

    def __str__(self) -> str:
        return self._link.ask("str", self)

    def __eq__(self, other: object) -> bool:  # the candidate's own `__eq__` could return True for anything
        raise TypeError("an object of the candidate's is not compared: compare plain data that it gives")

    def __bool__(self) -> bool:
        raise TypeError("an object of the candidate's is neither true nor false here: compare plain data that it gives")

    __hash__ = None  # type: ignore[assignment]


class Link:
    """The candidate's process and the pipes to it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        their_inbox, self._outbox = os.pipe()
        self._inbox, their_outbox = os.pipe()
        self._limit = settings["output_bytes"]
        self.gone = ""  # the reason, once the candidate's process has ended
        self.answers = 0  # operations that the candidate has answered
        self.raised: Exception | None = None  # the last exception that it answered with
        self._pid = os.fork()
        if self._pid == 0:
            candidate.main(their_inbox, their_outbox, settings)
        os.close(their_inbox)
        os.close(their_outbox)
        self._pidfd = os.pidfd_open(self._pid)
        reply = wire.receive(self._inbox)  # still our own code
        if "ready" not in reply:
            raise OSError(reply["failure"])

    def exchange(self, message: Any) -> dict[str, Any]:
        """The candidate's reply.

        Raises:
            CandidateGoneError: when it has none.
        """
        if not self.gone:
            try:
                wire.send(self._outbox, message)
                reply = wire.receive(self._inbox, limit=self._limit, writer=self._pidfd)
                if isinstance(reply, dict):
                    return reply
                self.gone = "the candidate's process sent no reply"
            except (EOFError, BrokenPipeError):
                self.gone = f"the candidate's process {self._ending()}"
            except (ValueError, RecursionError, MemoryError) as failure:
                self.gone = f"the candidate's process sent {failure}"
        raise CandidateGoneError(self.gone)

    def ask(self, operation: str, *args: Any, **kwargs: Any) -> Any:
        """The value of an operation in the candidate's process. Its exception is raised as the nearest built-in one."""
        try:
            arguments = {"args": wire.pack(list(args), _handle), "kwargs": wire.pack(kwargs, _handle)}
        except (TypeError, RecursionError) as failure:
            raise BadTestError(str(failure)) from None
        reply = self.exchange({"do": operation, **arguments})
        self.answers += 1
        try:
            if "value" not in reply:
                self.raised = as_exception(reply)
                raise self.raised
            self._write_back(args, reply.get("args") or [])
            return wire.unpack(reply["value"], self.remote)
        except (LookupError, TypeError, ValueError, RecursionError, OverflowError) as failure:
            if "value" not in reply:
                raise
            self.gone = f"the candidate's process sent nonsense: {failure}"
            raise CandidateGoneError(self.gone) from None

    def remote(self, number: int) -> Remote:
        return Remote(self, number)

    def _write_back(self, args: tuple[Any, ...], after: list[Any]) -> None:
        """Repeats on the test's own lists, dicts and sets what the candidate did to its copies of them."""
        for mine, theirs in zip(args, after, strict=False):
            new = wire.unpack(theirs, self.remote)
            if isinstance(mine, list | bytearray) and type(new) is type(mine):
                mine[:] = new
            elif isinstance(mine, dict | set) and type(new) is type(mine):
                mine.clear()
                mine.update(new)

    def _ending(self) -> str:
        code = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


class SolutionModule(ModuleType):
    """`from solution import f` in a test: a module with the candidate's names."""

    def __init__(self, link: Link, entry_point: str) -> None:
        super().__init__(SOLUTION)
        self.__dict__.update({"__all__": [entry_point], "_link": link, entry_point: link.remote(ENTRY)})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        try:
            return self._link.ask("global", name)
        except AttributeError as failure:  # Python would make an ImportError of it, and that is the test's own
            raise LookupError(f"the code does not define {name!r}") from failure


def _handle(value: Any) -> int:
    if isinstance(value, Remote):
        return value._number
    raise TypeError(f"a test passes {type(value).__name__}: only plain data travels to the candidate")


def as_exception(reply: dict[str, Any]) -> Exception:
    """The exception that the candidate raised. One that is no `Exception`, such as SystemExit, becomes RuntimeError."""
    text = f"{reply.get('text', '')}"
    for name in reply.get("raised", []):
        kind = getattr(builtins, name, None)
        if isinstance(kind, type) and issubclass(kind, Exception):
            try:
                return kind(text)
            except TypeError:  # UnicodeDecodeError takes five arguments
                continue
    return RuntimeError(f"{reply.get('class')}: {text}")


def run(channel: int, settings: dict[str, Any]) -> dict[str, Any]:
    """The verdict. The candidate's process starts before a test is read, so its memory never held one.

    Raises:
        OSError, EOFError: when a wall cannot be built or the host has gone.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    link = Link(settings)
    return judge(link, wire.receive(channel))


def judge(link: Link, job: dict[str, Any]) -> dict[str, Any]:
    """Passed and total of the job's tests, and the first failure; `outcome` where the tests do not decide it."""
    total = len(job["tests"])
    verdict: dict[str, Any] = {"passed": 0, "total": total, "detail": ""}
    try:
        reply = link.exchange({"source": job["source"], "entry_point": job["entry_point"]})
    except CandidateGoneError as failure:
        return {**verdict, "detail": f"{failure}"}
    if "not_python" in reply:
        return {**verdict, "outcome": "unparsable", "detail": f"{reply['not_python']}"[:MAX_DETAIL]}
    if "value" not in reply:
        return {**verdict, "detail": f"the code does not load: {reply.get('class')}: {reply.get('text')}"[:MAX_DETAIL]}
    sys.modules[SOLUTION] = SolutionModule(link, job["entry_point"])
    for number, test in enumerate(job["tests"]):
        try:
            failure = failure_of(test, link, job)
        except BadTestError as problem:
            return {**verdict, "passed": 0, "outcome": "error", "detail": f"test {number}: {problem}"[:MAX_DETAIL]}
        failure = link.gone or failure
        verdict["passed"] += not failure
        verdict["detail"] = verdict["detail"] or (failure and f"test {number}: {failure}"[:MAX_DETAIL])
        if failure and (link.gone or not job["run_all"]):
            break
    return verdict


def failure_of(test: dict[str, Any], link: Link, job: dict[str, Any]) -> str:
    """Why `test` fails, or "" where it passes. Raises BadTestError for a test that cannot be run."""
    entry, answers = link.remote(ENTRY), link.answers
    try:
        if "code" not in test:
            value, expected = entry(*test["args"], **test["kwargs"]), test["expected"]
            if same(value, expected) or (test.get("wrapped") and same(value, expected[0])):
                return ""
            return f"{excerpt(value)} is not {excerpt(expected)}"
        run_code(test, entry, job)
    except (BadTestError, CandidateGoneError) as failure:
        if isinstance(failure, BadTestError):
            raise
        return f"{failure}"
    except BaseException as failure:  # SystemExit too: a test that exits has failed, and the others still run
        text = f"{type(failure).__name__}: {failure}"
        if is_the_tests_own(failure, link, link.answers > answers, (test.get("code", ""), job["setup"])):
            raise BadTestError(f"its own code raised {text}") from None
        return f"AssertionError {failure}".strip() if isinstance(failure, AssertionError) else text
    return ""


def run_code(test: dict[str, Any], entry: Remote, job: dict[str, Any]) -> None:
    """Runs the setup, the test's code, and then the functions that the code leaves to the harness."""
    names: dict[str, Any] = {"__name__": "tests", job["entry_point"]: entry}
    exec(compile(job["setup"], SETUP_FILE, "exec", dont_inherit=True), names)
    names[job["entry_point"]] = entry  # again, as the setup may define a stub of this name
    exec(compile(test["code"], TEST_FILE, "exec", dont_inherit=True), names)
    for name in test.get("calls", ()):
        function = names[name]
        code = function.__code__
        required = code.co_argcount - len(function.__defaults__ or ())
        function(*[entry] * required)  # each argument is the candidate: other tests are refused at load


def is_the_tests_own(failure: BaseException, link: Link, answered: bool, sources: tuple[str, ...]) -> bool:
    """True where the candidate can have no part in the failure of a test.

    It has none before it has answered the test for the first time. Later, a module that is missing and a name that the
    test never binds are the test's own too. Any other exception may come from a value that the candidate gave.
    """
    if failure is link.raised:
        return False
    if not answered or isinstance(failure, ImportError):
        return True
    return isinstance(failure, NameError) and not any(binds(source, failure.name) for source in sources)


def binds(source: str, name: str | None) -> bool:
    """True where Python code binds `name` somewhere: then it depends on the way through the code whether it exists."""
    import ast  # only here: most runs do without

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Name) and node.id == name and not isinstance(node.ctx, ast.Load):
            return True
        if name in (getattr(node, "name", None), getattr(node, "asname", None)):
            return True
    return False


def same(value: Any, expected: Any) -> bool:
    """Equality as JSON sees it: a tuple is a list, floats agree to 9 digits."""
    if isinstance(value, list | tuple) and isinstance(expected, list | tuple):
        return len(value) == len(expected) and all(map(same, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        return value.keys() == expected.keys() and all(same(value[key], expected[key]) for key in expected)
    if isinstance(value, float) and isinstance(expected, int | float):
        return value == expected or math.isclose(value, expected, rel_tol=1e-9, abs_tol=1e-12)
    return bool(value == expected)  # a Remote raises here: the candidate's `__eq__` must not decide


def excerpt(value: Any) -> str:
    return "an object" if isinstance(value, Remote) else repr(value)[: MAX_DETAIL // 3]
