"""Hold a folder or file for this process alone."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from trainer.errors import StageError

POLL_S = 0.2


@contextmanager
def exclusive(path: Path, *, subject: Path, hint: str, wait_s: float = 0) -> Iterator[None]:
    """Hold a lock file; it names this process and is removed at the end.

    Args:
        path: The lock file; its folder exists.
        subject: What the lock protects, for the message.
        hint: What the user can do while another process holds it.
        wait_s: Seconds to wait for that process.

    Raises:
        StageError: Another process still holds the lock; the message names it.
    """
    # no soft locks: only the kernel frees a lock whose process was killed
    lock = FileLock(path, timeout=wait_s, poll_interval=POLL_S, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout as error:
        owner = path.read_text().strip() if path.is_file() else ""
        raise StageError(f"{subject} is in use by process {owner or 'unknown'}", hint=hint) from error
    try:
        path.write_text(f"{os.getpid()} on {platform.node()}")
        yield
    finally:
        path.unlink(
            missing_ok=True
        )  # before the release: whoever waits sees a file without a name, and opens a new one
        lock.release()
