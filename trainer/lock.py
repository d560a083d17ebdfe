"""Hold a folder or file for this process alone."""

from __future__ import annotations

import errno
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from trainer.errors import StageError

POLL_S = 0.2
NO_FLOCK = (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOLCK)
"""What file systems without kernel locks answer, such as some cluster file systems."""


@contextmanager
def exclusive(path: Path, *, subject: Path, hint: str, wait_s: float = 0) -> Iterator[None]:
    """Hold a lock file; it names this process and is removed at the end.

    Where the file system has no kernel locks, the file's existence is the lock. It then stays behind a process that
    was killed; one on this machine is seen to have ended, one on another machine has to be removed by hand.

    Args:
        path: The lock file; its folder exists.
        subject: What the lock protects, for the message.
        hint: What the user can do while another process holds it.
        wait_s: Seconds to wait for that process.

    Raises:
        StageError: Another process still holds the lock; the message names it.
    """
    # no soft locks of filelock's: its own break by age, ours only when the process has ended
    lock = FileLock(path, timeout=wait_s, poll_interval=POLL_S, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        raise _in_use(subject, _owner(path), hint) from error
    except (OSError, NotImplementedError) as error:
        if isinstance(error, OSError) and error.errno not in NO_FLOCK:
            raise
        with _by_existence(path, subject=subject, hint=hint, wait_s=wait_s):
            yield
        return
    try:
        path.write_text(_this_process())
        yield
    finally:
        path.unlink(
            missing_ok=True
        )  # before the release: whoever waits sees a file without a name, and opens a new one
        lock.release()


def _in_use(subject: Path, owner: str, hint: str) -> StageError:
    return StageError(f"{subject} is in use by process {owner.splitlines()[0] if owner else 'unknown'}", hint=hint)


@contextmanager
def _by_existence(path: Path, *, subject: Path, hint: str, wait_s: float) -> Iterator[None]:
    """Hold a lock by creating a file, which is atomic on every file system, NFS included."""
    if path.is_file() and not _owner(path):
        path.unlink()  # made by the attempt to lock it
    deadline = time.monotonic() + wait_s
    while not _created(path, _this_process()):
        owner = _owner(path)
        if owner and _has_ended(owner) and _removed(path, owner):
            continue
        if time.monotonic() >= deadline:
            away = f"{hint}; this file system has no locks: if that process is gone, remove {path}"
            raise _in_use(subject, owner, away)
        time.sleep(POLL_S)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def _created(path: Path, text: str) -> bool:
    """Create a file with its content at once: a link to a finished file either exists or does not."""
    staged = path.with_name(f"{path.name}.{platform.node()}.{os.getpid()}")
    staged.write_text(text)
    try:
        os.link(staged, path)
    except FileExistsError:
        return False
    finally:
        staged.unlink()
    return True


def _removed(path: Path, owner: str) -> bool:
    """Remove the lock of a process that has ended: one process at a time may, if the lock is still the same."""
    guard = path.with_name(f"{path.name}.guard")
    if not _created(guard, _this_process()):
        return False
    try:
        if _owner(path) == owner:
            path.unlink()
        return True
    finally:
        guard.unlink()


def _this_process() -> str:
    """Return process and host, and what tells this process from a later one of the same number."""
    return f"{os.getpid()} on {platform.node()}\n{_space()} {_start(os.getpid())}"


def _has_ended(owner: str) -> bool:
    """Tell whether a process certainly has ended: it ran on this machine, and is gone.

    Example:
        >>> _has_ended(_this_process()), _has_ended("1 on another-host")
        (False, False)
    """
    first, _, second = owner.partition("\n")
    pid, _, host = first.partition(" on ")
    space, _, start = second.partition(" ")
    is_here = host == platform.node() and space == _space() and pid.isdigit()
    return is_here and _start(int(pid)) != start


def _space() -> str:
    """Return the space of process numbers, of which every container has its own, and the boot that it began in."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{Path('/proc/self/ns/pid').readlink()}/{boot}"
    except OSError:
        return "unknown"


def _start(pid: int) -> str:
    """Return when a process began, in ticks since the boot; empty for one that has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _owner(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
