"""Take from this process all that computing does not need: files to write, sockets, programs, other processes."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import struct

ALLOWED = {
    "read": 0, "write": 1, "close": 3, "stat": 4, "fstat": 5, "lstat": 6, "poll": 7, "lseek": 8, "mmap": 9,
    "mprotect": 10, "munmap": 11, "brk": 12, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
    "ioctl": 16, "pread64": 17, "readv": 19, "writev": 20, "access": 21, "pipe": 22, "select": 23,
    "sched_yield": 24, "mremap": 25, "madvise": 28, "dup": 32, "dup2": 33, "pause": 34, "nanosleep": 35,
    "getitimer": 36, "alarm": 37, "setitimer": 38, "getpid": 39, "socketpair": 53, "exit": 60, "wait4": 61,
    "uname": 63, "fcntl": 72, "getcwd": 79, "readlink": 89, "umask": 95, "gettimeofday": 96, "getrlimit": 97,
    "getrusage": 98, "sysinfo": 99, "times": 100, "getuid": 102, "getgid": 104, "geteuid": 107, "getegid": 108,
    "getppid": 110, "getpgrp": 111, "getgroups": 115, "sigaltstack": 131, "statfs": 137, "fstatfs": 138,
    "prctl": 157, "arch_prctl": 158, "gettid": 186, "time": 201, "futex": 202, "sched_getaffinity": 204,
    "getdents64": 217, "set_tid_address": 218, "restart_syscall": 219, "fadvise64": 221, "timer_create": 222,
    "timer_settime": 223, "timer_delete": 226, "clock_gettime": 228, "clock_getres": 229, "clock_nanosleep": 230,
    "exit_group": 231, "epoll_wait": 232, "epoll_ctl": 233, "newfstatat": 262, "readlinkat": 267, "faccessat": 269,
    "pselect6": 270, "ppoll": 271, "set_robust_list": 273, "epoll_pwait": 281, "timerfd_create": 283,
    "eventfd2": 290, "epoll_create1": 291, "dup3": 292, "pipe2": 293, "preadv": 295, "getcpu": 309,
    "getrandom": 318, "membarrier": 324, "statx": 332, "rseq": 334, "faccessat2": 439, "epoll_pwait2": 441,
}  # fmt: skip
"""System calls of Linux on x86_64. Source: arch/x86/entry/syscalls/syscall_64.tbl."""
OPEN, CLONE, TGKILL, OPENAT, PRLIMIT64, CLONE3 = 2, 56, 234, 257, 302, 435
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CLONE_THREAD = 0x00010000
X86_64 = 0xC000003E
"""AUDIT_ARCH_X86_64 of linux/audit.h."""
LOAD, EQUAL, ANY_BIT, AT_LEAST, RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
"""Operations of classic BPF. Source: linux/bpf_common.h."""
ALLOW, KILL = 0x7FFF0000, 0x80000000
REFUSE, UNKNOWN = 0x00050000 | 1, 0x00050000 | 38
"""Answers of the filter: EPERM, and ENOSYS, which makes the C library try an older call."""
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
NUMBER, ARCHITECTURE, FIRST_ARGUMENT = 0, 4, 16
"""Offsets in struct seccomp_data; an argument is 8 bytes, its low half first."""

Step = tuple[int, int, int, int]
"""(operation, steps to skip where true, steps to skip where false, operand)."""


class CannotConfineError(Exception):
    """This system has no filter for system calls, or none that is known here."""


def limit(*, memory_mib: int, cpu_s: int | None = None) -> None:
    """Limit this process: address space, processor time, open files; no core dumps and no file growth.

    Args:
        memory_mib: Address space.
        cpu_s: Processor time, after which the kernel ends the process; None for no limit.
    """
    limits = {
        resource.RLIMIT_AS: memory_mib * 2**20,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
    }
    if cpu_s is not None:
        limits[resource.RLIMIT_CPU] = cpu_s
    for kind, value in limits.items():
        hard = resource.getrlimit(kind)[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (value, value))


def confine() -> None:
    """Refuse all system calls but the allowed ones from here on; files can be read, not written.

    Raises:
        CannotConfineError: The system is not Linux on x86_64, or refuses the filter.
    """
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        raise CannotConfineError(f"programs are confined on Linux x86_64 only, this is {platform.machine()}")
    code = b"".join(struct.pack("=HBBI", *step) for step in _filter(os.getpid()))
    steps = ctypes.create_string_buffer(code, len(code))
    program = ctypes.create_string_buffer(struct.pack("@HP", len(code) // 8, ctypes.addressof(steps)))
    library = ctypes.CDLL(None, use_errno=True)
    for call in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0),
    ):
        if library.prctl(*(ctypes.c_ulong(value) for value in call)) != 0:
            raise CannotConfineError(f"the system refuses a filter: {os.strerror(ctypes.get_errno())}")


def _filter(process: int) -> list[Step]:
    """Return the filter; `process` may signal only itself."""
    steps: list[Step] = [(LOAD, 0, 0, ARCHITECTURE), (EQUAL, 1, 0, X86_64), (RETURN, 0, 0, KILL), (LOAD, 0, 0, NUMBER)]
    steps += _only(OPEN, 1, (ANY_BIT, 0, 1, WRITES))
    steps += _only(OPENAT, 2, (ANY_BIT, 0, 1, WRITES))
    steps += _only(CLONE, 0, (ANY_BIT, 1, 0, CLONE_THREAD))
    steps += _only(TGKILL, 0, (EQUAL, 1, 0, process))
    steps += _only(PRLIMIT64, 2, (EQUAL, 1, 0, 0))  # no new limits
    steps += [(EQUAL, 0, 1, CLONE3), (RETURN, 0, 0, UNKNOWN)]
    for number in ALLOWED.values():
        steps += [(EQUAL, 0, 1, number), (RETURN, 0, 0, ALLOW)]
    return [*steps, (RETURN, 0, 0, REFUSE)]


def _only(number: int, argument: int, refused: Step) -> list[Step]:
    """Allow a call unless its argument (32 low bits) leads to the step right after `refused`."""
    offset = FIRST_ARGUMENT + 8 * argument
    return [(EQUAL, 0, 4, number), (LOAD, 0, 0, offset), refused, (RETURN, 0, 0, REFUSE), (RETURN, 0, 0, ALLOW)]
