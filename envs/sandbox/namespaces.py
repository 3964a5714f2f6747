"""User, pid, network, mount, ipc and uts namespaces around an unprivileged user and a root with Python's library."""

from __future__ import annotations

import os
from collections.abc import Sequence

from . import syscalls

NOBODY = 65534
# The new root is built over one of them, in our mount namespace only.
STAGES = ("/mnt", "/media", "/srv", "/run", "/tmp")


def enter(readable: Sequence[str]) -> None:
    """Moves this process into the namespaces; its next child is the first of the new pid namespace.

    Root first builds the new root and then becomes `nobody`. So folders that an unprivileged user may not read, such as
    a Python under /root, are mounted by then. Any other user builds it with the rights that the user namespace gives.

    Raises:
        OSError: naming the system call that the kernel, or the container around us, refused.
    """
    stage = next(path for path in STAGES if os.path.isdir(path) and not any(_within(r, path) for r in readable))
    as_root = os.geteuid() == 0
    if as_root:
        syscalls.unshare("CLONE_NEWNS")
        build_root(stage, readable)
        become_nobody()
    user, group = os.geteuid(), os.getegid()
    syscalls.unshare(*syscalls.NEW_NAMESPACES)
    write("/proc/self/setgroups", "deny")  # the kernel refuses an unprivileged gid_map before this
    write("/proc/self/uid_map", f"{user} {user} 1")
    write("/proc/self/gid_map", f"{group} {group} 1")
    if not as_root:
        build_root(stage, readable)
    # A mount inherited from a more privileged namespace is locked; a bind of it made here can be pivoted to.
    syscalls.mount(stage, stage, flags=syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.pivot_root(stage)


def build_root(stage: str, readable: Sequence[str]) -> None:
    """A read-only tree at `stage` that holds `readable` and nothing else, visible only in this mount namespace."""
    syscalls.mount("none", "/", flags=syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("tmpfs", stage, "tmpfs", syscalls.MS_NOSUID | syscalls.MS_NODEV, "size=1m,mode=755")
    for path in readable:
        target = stage + path
        if os.path.lexists(target) or any(path != other and _within(path, other) for other in readable):
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.islink(path) and os.path.realpath(path) in readable:  # /lib -> usr/lib
            os.symlink(os.readlink(path), target)
        else:
            os.mkdir(target) if os.path.isdir(path) else write(target, "")
            syscalls.mount(path, target, flags=syscalls.MS_BIND | syscalls.MS_REC)
    syscalls.make_read_only(stage)


def become_nobody() -> None:
    os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    # After a change of user /proc/self belongs to root, and the id maps are written there.
    syscalls.prctl("PR_SET_DUMPABLE", syscalls.PR_SET_DUMPABLE, 1)


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        try:
            file.write(text)
            file.flush()
        except OSError as failure:
            raise OSError(failure.errno, f"write {path}: {failure.strerror}") from failure


def _within(path: str, folder: str) -> bool:
    return os.path.commonpath([path, folder]) == folder
