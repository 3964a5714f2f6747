"""Landlock rules that leave only the reading of Python's library of the file system."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from . import syscalls

MIN_ABI = 3  # Linux 6.2: before it, open(O_TRUNC) empties files despite the rules
READ_FILE, READ_DIR = 1 << 2, 1 << 3
SCOPE_ABSTRACT_SOCKETS, SCOPE_SIGNALS = 1, 2


def restrict(readable: Iterable[str]) -> None:
    """Confines this process and its children to reading the paths `readable`: no write, no program, no TCP.

    Metadata (stat, the existence of a path) stays visible: Landlock has no rule for it. A process with more layers
    of rules cannot trace one with fewer, and from ABI 6 on cannot signal it.

    Raises:
        OSError: where the kernel has no Landlock, has it disabled, or has one before ABI 3.
    """
    abi = syscalls.landlock_abi()
    if abi < MIN_ABI:
        raise OSError(f"Landlock ABI {abi}: {MIN_ABI} or later is needed (Linux 6.2)")
    files = (1 << (16 if abi >= 5 else 15)) - 1  # every right that this ABI knows
    net = 3 if abi >= 4 else 0  # TCP bind and connect
    scope = SCOPE_ABSTRACT_SOCKETS | SCOPE_SIGNALS if abi >= 6 else 0
    size = 24 if abi >= 6 else 16 if abi >= 4 else 8
    ruleset = syscalls.landlock_ruleset(struct.pack("=QQQ", files, net, scope)[:size])
    for path in readable:
        folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rights = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE
        syscalls.landlock_allow(ruleset, struct.pack("=Qi", rights, folder))
        os.close(folder)
    syscalls.prctl("PR_SET_NO_NEW_PRIVS", syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.landlock_restrict(ruleset)
    os.close(ruleset)
