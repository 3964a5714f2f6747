"""A seccomp filter that lets Python only compute, read open files and use open pipes.

It lists what is allowed. Any other call fails with EPERM, so a system call that is new or forgotten is denied. No
socket of any kind (a datagram socketpair can send to paths), no program, no process, no signal,
no shared memory, no change of a file's mode, owner or time.
"""

from __future__ import annotations

import os
import struct

from . import syscalls

# Name, number on x86_64, number on aarch64 (- where it has none), from the kernel's asm/unistd.h.
ALLOWED = """
access 21 -, alarm 37 -, arch_prctl 158 -, brk 12 214, chdir 80 49, clock_getres 229 114, clock_gettime 228 113,
clock_nanosleep 230 115, close 3 57, close_range 436 436, dup 32 23, dup2 33 -, dup3 292 24, epoll_create1 291 20,
epoll_ctl 233 21, epoll_pwait 281 22, epoll_wait 232 -, eventfd2 290 19, exit 60 93, exit_group 231 94,
faccessat 269 48, faccessat2 439 439, fchdir 81 50, fstat 5 80, futex 202 98, get_robust_list 274 100, getcpu 309 168,
getcwd 79 17, getdents64 217 61, getegid 108 177, geteuid 107 175, getgid 104 176, getgroups 115 158, getitimer 36 102,
getpgid 121 155, getpgrp 111 -, getpid 39 172, getppid 110 173, getpriority 140 141, getrandom 318 278,
getrlimit 97 163, getrusage 98 165, getsid 124 156, gettid 186 178, gettimeofday 96 169, getuid 102 174, lseek 8 62,
lstat 6 -, madvise 28 233, membarrier 324 283, mmap 9 222, mprotect 10 226, mremap 25 216, munmap 11 215,
nanosleep 35 101, newfstatat 262 79, open 2 -, openat 257 56, pipe 22 -, pipe2 293 59, poll 7 -, ppoll 271 73,
pread64 17 67, pselect6 270 72, pwrite64 18 68, read 0 63, readlink 89 -, readlinkat 267 78, readv 19 65,
restart_syscall 219 128, rseq 334 293, rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139,
sched_getaffinity 204 123, sched_yield 24 124, select 23 -, set_robust_list 273 99, set_tid_address 218 96,
setitimer 38 103, sigaltstack 131 132, stat 4 -, statx 332 291, sysinfo 99 179, time 201 -, times 100 153,
umask 95 166, uname 63 160, wait4 61 260, waitid 247 95, write 1 64, writev 20 66
"""
COLUMN = {"x86_64": 1, "aarch64": 2}
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE, CLONE3 = {"x86_64": 56, "aarch64": 220}, 435
FCNTL, IOCTL, PRLIMIT64 = {"x86_64": 72, "aarch64": 25}, {"x86_64": 16, "aarch64": 29}, {"x86_64": 302, "aarch64": 261}

CLONE_THREAD = 0x10000
F_SETOWN, F_SETSIG, F_SETOWN_EX = 8, 10, 15  # together they send any signal to any process of the same user
TERMINAL_SIZE, TERMINAL_ATTRIBUTES, CLOSE_ON_EXEC = 0x5413, 0x5401, 0x5451  # Python's own file objects use them

LOAD, EQUAL, HAS_BITS, AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
ALLOW, DENY, KILL, ABSENT = 0x7FFF0000, 0x00050000 | 1, 0x80000000, 0x00050000 | 38  # errno EPERM and ENOSYS
NUMBER, ARCHITECTURE, ARGUMENT = 0, 4, 16  # offsets in seccomp_data; argument i is 8 bytes, its low half first


def instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def verdict(number: int, action: int) -> bytes:
    """System call `number` gets `action`."""
    return instruction(EQUAL, number, 0, 1) + instruction(RETURN, action)


def by_argument(number: int, index: int, test: int, values: tuple[int, ...], action: int, otherwise: int) -> bytes:
    """`action` where `test` holds between the low 32 bits of argument `index` and one of `values`."""
    body = instruction(LOAD, ARGUMENT + 8 * index)
    for value in values:
        body += instruction(test, value, 0, 1) + instruction(RETURN, action)
    body += instruction(RETURN, otherwise)
    return instruction(EQUAL, number, 0, len(body) // 8) + body


def program(rules: bytes, default: int) -> bytes:
    """A filter for this machine: `rules` in turn, then `default`; another architecture's calls kill the process."""
    start = instruction(LOAD, ARCHITECTURE) + instruction(EQUAL, AUDIT_ARCH[machine()], 1) + instruction(RETURN, KILL)
    start += instruction(LOAD, NUMBER) + instruction(AT_LEAST, 0x40000000, 0, 1) + instruction(RETURN, DENY)  # x32
    return start + rules + instruction(RETURN, default)


def install(*, threads: bool) -> None:
    """Confines this process to `ALLOWED` until it ends; `threads` lets it start threads.

    Raises:
        OSError: where the kernel has no seccomp filters or the architecture has no table here.
    """
    name = machine()
    rules = b""
    for row in ALLOWED.split(","):
        number = row.split()[COLUMN[name]]
        rules += verdict(int(number), ALLOW) if number != "-" else b""
    # A filter cannot read the flags of clone3, which are behind a pointer. ENOSYS makes the C library use clone.
    rules += verdict(CLONE3, ABSENT)
    rules += by_argument(CLONE[name], 0, HAS_BITS, (CLONE_THREAD,), ALLOW if threads else DENY, DENY)
    rules += by_argument(FCNTL[name], 1, EQUAL, (F_SETOWN, F_SETSIG, F_SETOWN_EX), DENY, ALLOW)
    rules += by_argument(IOCTL[name], 1, EQUAL, (TERMINAL_SIZE, TERMINAL_ATTRIBUTES, CLOSE_ON_EXEC), ALLOW, DENY)
    rules += by_argument(PRLIMIT64[name], 0, EQUAL, (0,), ALLOW, DENY)  # its own limits only
    syscalls.prctl("PR_SET_NO_NEW_PRIVS", syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.seccomp(program(rules, DENY))


def machine() -> str:
    """`x86_64` or `aarch64`; OSError elsewhere."""
    name = os.uname().machine
    if name not in AUDIT_ARCH:
        raise OSError(f"seccomp: no table of system calls for {name}, only for {', '.join(AUDIT_ARCH)}")
    return name
