"""The Linux system calls that Python 3.11 does not wrap. Every failure is an `OSError` that names its call."""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS = 1, 4, 22, 36, 38
SECCOMP_MODE_FILTER = 2
CAPABILITY_VERSION_3 = 0x20080522
NR_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
NR_MOUNT_SETATTR, NR_CREATE_RULESET, NR_ADD_RULE, NR_RESTRICT_SELF = 442, 444, 445, 446  # the same on both

MS_BIND, MS_REC, MS_PRIVATE, MS_NOSUID, MS_NODEV = 0x1000, 0x4000, 0x40000, 2, 4
MNT_DETACH = 2
AT_FDCWD, AT_RECURSIVE = -100, 0x8000
ATTR_RDONLY, ATTR_NOSUID, ATTR_NODEV = 1, 2, 4

NEW_NAMESPACES = {
    "CLONE_NEWUSER": 0x10000000,
    "CLONE_NEWNS": 0x20000,
    "CLONE_NEWPID": 0x20000000,
    "CLONE_NEWNET": 0x40000000,
    "CLONE_NEWIPC": 0x8000000,
    "CLONE_NEWUTS": 0x4000000,
}


def checked(name: str, result: int) -> int:
    """`result`, or OSError with the call's name where it is negative."""
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def prctl(name: str, option: int, *arguments: int | ctypes._Pointer) -> None:
    # ctypes passes a bare int as 32 bits, the kernel reads whole registers, and some options fail unless the unused
    # arguments are 0.
    padded = [ctypes.c_ulong(value) if isinstance(value, int) else value for value in arguments]
    padded += [ctypes.c_ulong(0)] * (4 - len(padded))
    checked(f"prctl({name})", _libc.prctl(option, *padded))


def unshare(*names: str) -> None:
    """New namespaces, all at once."""
    flags = sum(NEW_NAMESPACES[name] for name in names)
    checked(f"unshare({'|'.join(names)})", _libc.unshare(flags))


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() or None, ctypes.c_ulong(flags), options.encode() or None
    )
    checked(f"mount({source}, {target})", result)


def make_read_only(path: str) -> None:
    """Read-only, without devices and set-user-id programs, for the mount at `path` and all below it."""
    attributes = (ctypes.c_uint64 * 4)(ATTR_RDONLY | ATTR_NOSUID | ATTR_NODEV, 0, 0, 0)  # struct mount_attr
    change = (ctypes.byref(attributes), ctypes.c_size_t(ctypes.sizeof(attributes)))
    checked("mount_setattr", _libc.syscall(NR_MOUNT_SETATTR, AT_FDCWD, path.encode(), AT_RECURSIVE, *change))


def pivot_root(new_root: str) -> None:
    """Makes `new_root` the root of this mount namespace and drops the old one."""
    os.chdir(new_root)
    # Both arguments may be the same folder: the old root is then mounted over the new one, and unmounted from there.
    checked("pivot_root", _libc.syscall(NR_PIVOT_ROOT[os.uname().machine], b".", b"."))
    checked("umount2", _libc.umount2(b".", MNT_DETACH))
    os.chdir("/")


def drop_capabilities() -> None:
    """Gives up every capability until the process ends. No program started later gains any."""
    prctl("PR_SET_NO_NEW_PRIVS", PR_SET_NO_NEW_PRIVS, 1)
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION_3, 0)  # 0: this thread. Version 3 takes six words, all 0 here
    checked("capset", _libc.capset(ctypes.byref(header), ctypes.byref((ctypes.c_uint32 * 6)())))


def landlock_abi() -> int:
    """Version of the kernel's Landlock; raises OSError where it has none or has not enabled it."""
    # Flag 1 asks for the version and creates nothing.
    return checked("landlock_create_ruleset", _libc.syscall(NR_CREATE_RULESET, None, ctypes.c_size_t(0), 1))


def landlock_ruleset(attributes: bytes) -> int:
    size = ctypes.c_size_t(len(attributes))
    return checked("landlock_create_ruleset", _libc.syscall(NR_CREATE_RULESET, attributes, size, 0))


def landlock_allow(ruleset: int, rule: bytes) -> None:
    checked("landlock_add_rule", _libc.syscall(NR_ADD_RULE, ruleset, 1, rule, 0))  # 1: a path and all below it


def landlock_restrict(ruleset: int) -> None:
    checked("landlock_restrict_self", _libc.syscall(NR_RESTRICT_SELF, ruleset, 0))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def seccomp(program: bytes) -> None:
    """Installs a filter of 8-byte BPF instructions for this thread and all that it starts."""
    description = _Program(len(program) // 8, program)
    prctl("PR_SET_SECCOMP", PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.pointer(description))
