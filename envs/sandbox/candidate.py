"""The candidate's process. It runs the source, then answers calls. It never holds a test or an expected value."""

from __future__ import annotations

import builtins
import fcntl
import operator
import os
import resource
import sys
from types import ModuleType
from typing import Any, NoReturn

from . import landlock, seccomp, syscalls, wire

OPEN_FILES, FILE_BYTES, PROCESSES = 64, 16 << 20, 16
READ_FD, WRITE_FD = 3, 4
MODULE = "candidate"
METHODS_OF = "Solution"  # LeetCode's class, which other judges make an instance of

OPERATIONS = {
    "call": lambda target, *args, **kwargs: target(*args, **kwargs),
    "getattr": getattr,
    "getitem": operator.getitem,
    "iter": iter,
    "next": next,
    "len": len,
    "str": str,
    "global": lambda name: sys.modules[MODULE].__dict__[name],
}


def main(inbox: int, outbox: int, settings: dict[str, Any]) -> NoReturn:
    """The forked child. Of its parent only two pipes stay open, and its only right is to compute."""
    try:
        inbox, outbox = (fcntl.fcntl(pipe, fcntl.F_DUPFD, WRITE_FD + 1) for pipe in (inbox, outbox))
        for source, target in ((1, 0), (inbox, READ_FD), (outbox, WRITE_FD)):  # 1 is /dev/null, 0 was the verdict's
            os.dup2(source, target)
        os.closerange(WRITE_FD + 1, os.sysconf("SC_OPEN_MAX"))
        confine(settings)
        wire.send(WRITE_FD, {"ready": True})
    except BaseException as failure:
        wire.send(WRITE_FD, {"failure": getattr(failure, "strerror", None) or f"{type(failure).__name__}: {failure}"})
        os._exit(1)
    try:
        serve(wire.receive(READ_FD))
    finally:
        os._exit(0)


def confine(settings: dict[str, Any]) -> None:
    """Limits, then no capability, then the walls of the mechanism; the seccomp filter last, as it forbids the rest."""
    mechanism = settings["mechanism"]
    limits = {
        resource.RLIMIT_AS: settings["memory_bytes"],
        resource.RLIMIT_CPU: int(settings["deadline_s"]) + 2,  # the supervisor's wall-clock limit strikes first
        resource.RLIMIT_NOFILE: OPEN_FILES,
        resource.RLIMIT_FSIZE: FILE_BYTES,
        resource.RLIMIT_CORE: 0,
    }
    # NPROC counts the processes of this user namespace. Without one it would count all processes of the user.
    if mechanism.startswith("namespaces"):
        limits[resource.RLIMIT_NPROC] = PROCESSES
    for kind, value in limits.items():
        resource.setrlimit(kind, (value, value))
    syscalls.prctl("PR_SET_PDEATHSIG", syscalls.PR_SET_PDEATHSIG, 9)
    if mechanism != "unsafe":
        syscalls.drop_capabilities()
    if mechanism.startswith("landlock"):
        landlock.restrict(settings["readable"])
    if mechanism.endswith("seccomp"):
        seccomp.install(threads=mechanism.startswith("namespaces"))


def serve(job: dict[str, Any]) -> None:
    """Runs `job["source"]` as a module and answers operations on what it defines, until the pipe closes."""
    module = ModuleType(MODULE)
    sys.modules[module.__name__] = module  # dataclasses look up their module there
    handles: list[Any] = []

    def keep(value: Any) -> int:
        handles.append(value)
        return len(handles) - 1

    try:
        code = compile(job["source"], "<response>", "exec", dont_inherit=True)
    except BaseException as failure:
        return wire.send(WRITE_FD, {"not_python": f"{type(failure).__name__}: {failure}"})
    try:
        exec(code, module.__dict__)
        keep(entry_of(module.__dict__, job["entry_point"]))  # handle 0
    except BaseException as failure:
        return wire.send(WRITE_FD, raised(failure))
    wire.send(WRITE_FD, {"value": None})
    while True:
        wire.send(WRITE_FD, answer(wire.receive(READ_FD), handles, keep))


def entry_of(names: dict[str, Any], name: str) -> Any:
    """What the code defines as `name`, or the method of that name of a class `Solution`, on a new instance a call."""
    if name in names:
        return names[name]
    owner: Any = names.get(METHODS_OF)
    if callable(getattr(owner, name, None)):
        return lambda *args, **kwargs: getattr(owner(), name)(*args, **kwargs)
    raise NameError(f"it does not define {name!r}")


def answer(request: dict[str, Any], handles: list[Any], keep: Any) -> dict[str, Any]:
    """The value of one operation, and its mutable arguments as they are afterwards."""
    try:
        args = wire.unpack(request["args"], handles.__getitem__)
        kwargs = wire.unpack(request["kwargs"], handles.__getitem__)
        value = OPERATIONS[request["do"]](*args, **kwargs)
        reply = {"value": wire.pack(value, keep)}
        if request["do"] == "call":
            reply["args"] = [wire.pack(a, keep) if isinstance(a, list | dict | set | bytearray) else None for a in args]
        return reply
    except BaseException as failure:  # sys.exit too: a candidate must not decide when its tests end
        return raised(failure)


def raised(failure: BaseException) -> dict[str, Any]:
    """The built-in classes of an exception, nearest first, and its text."""
    names = [base.__name__ for base in type(failure).__mro__ if getattr(builtins, base.__name__, None) is base]
    try:
        text = str(failure)[:500]
    except BaseException:
        text = ""
    return {"raised": names, "text": text, "class": type(failure).__name__}
