"""Stop a chat template that computes without end.

A template is a program from a model's folder. Its loops run as Python code, into which a watching thread can raise; one
operation of C code (a text of 20 GB) is not stopped.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

MAX_SECONDS = 20.0
"""Of the thread's own computing time in one rendering; waiting for a busy machine does not count."""
WATCH_SECONDS = 0.5


class RenderTimeoutError(Exception):
    """A template computes for too long."""

    def __str__(self) -> str:
        """Say how long."""
        return f"it computes for more than {MAX_SECONDS:g} s, perhaps without end"


class _Watch:
    """Renderings in progress, by thread."""

    def __init__(self) -> None:
        self.reset()
        os.register_at_fork(after_in_child=self.reset)  # a forked process has no watcher and no renderings

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.started: dict[int, float] = {}
        self.stopped: set[int] = set()
        self.watcher: threading.Thread | None = None

    def begin(self, thread: int) -> None:
        with self.lock:
            self.started[thread] = time.thread_time()
            if self.watcher is None:
                self.watcher = threading.Thread(target=self._look, name="template time limit", daemon=True)
                self.watcher.start()

    def end(self, thread: int) -> None:
        """Forget a rendering; one that was stopped in its last moment raises here."""
        with self.lock:
            del self.started[thread]
            is_stopped = thread in self.stopped
            self.stopped.discard(thread)
        if is_stopped:
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None)  # none is left for later code

    def _look(self) -> None:
        while True:
            time.sleep(WATCH_SECONDS)
            with self.lock:
                for thread, start in self.started.items():
                    used = time.clock_gettime(time.pthread_getcpuclockid(thread)) - start
                    if used > MAX_SECONDS and thread not in self.stopped:
                        self.stopped.add(thread)
                        raised = ctypes.py_object(RenderTimeoutError)
                        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), raised)


_WATCH = _Watch()


@contextmanager
def limited() -> Iterator[None]:
    """Limit the computing time of a block.

    Raises:
        RenderTimeoutError: It took longer.
    """
    thread = threading.get_ident()
    if thread in _WATCH.started:  # a rendering inside another
        yield
        return
    _WATCH.begin(thread)
    try:
        yield
    finally:
        _WATCH.end(thread)
