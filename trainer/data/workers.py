"""Process chunks in several processes, and return results in the order of the chunks."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from trainer.errors import HardwareError, StageError

In = TypeVar("In")
Out = TypeVar("Out")

VARIABLE = "TRAINER_WORKERS"
INLINE_CHUNKS = 2
"""Starting processes costs about a second, so this many chunks are done without."""
COLLECT_AFTER = 20_000
"""Objects; Python's own threshold is 700."""


def num_workers() -> int:
    """Return `TRAINER_WORKERS`, or the number of processors this process may use.

    Raises:
        StageError: The variable is no positive number.
    """
    text = os.environ.get(VARIABLE, "")
    if not text:
        return len(os.sched_getaffinity(0))
    if not text.isdigit() or int(text) == 0:
        raise StageError(f"{VARIABLE} is {text!r}, not a number from 1", hint=f"export {VARIABLE}=2")
    return int(text)


class Workers:
    """Processes that are started when there is enough to do for them, and ended with the `with` block.

    Results come in the order of the chunks and do not depend on the number of processes.
    """

    def __init__(self, count: int | None = None) -> None:
        self.count = num_workers() if count is None else count
        self._pool: ProcessPoolExecutor | None = None
        self._num_inline = 0
        self._collected_after = gc.get_threshold()

    def __enter__(self) -> Workers:
        _collect_seldom()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        gc.set_threshold(*self._collected_after)
        if self._pool:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def map(self, function: Callable[[In], Out], chunks: Iterable[In]) -> Iterator[Out]:
        """Yield `function(chunk)` for each chunk, in order; only a few chunks are in flight at a time.

        Raises:
            HardwareError: A process died.
        """
        waiting: deque[Future[Out]] = deque()
        try:
            for chunk in chunks:
                if self.count == 1 or self._num_inline < INLINE_CHUNKS:
                    self._num_inline += 1
                    yield function(chunk)
                    continue
                with _main_hidden():
                    waiting.append(self._started().submit(function, chunk))
                if len(waiting) > self.count + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise HardwareError(
                "a process that prepares rows died; the system may have ended it for want of memory",
                hint=f"use fewer processes: {VARIABLE}=1, or free memory",
            ) from error

    def _started(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # Not forked from this process: libraries may have started threads in it.
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["trainer.data.prepare"])
            self._pool = ProcessPoolExecutor(self.count, context, initializer=_begin)
        return self._pool


@contextmanager
def _main_hidden() -> Iterator[None]:
    """Keep new processes from running the program that started us once more: what they need is in modules.

    A script without `if __name__ == "__main__"` would otherwise begin its work again in each of them.
    """
    main = sys.modules["__main__"]
    attributes = {name: getattr(main, name, None) for name in ("__spec__", "__file__")}
    for name in attributes:
        setattr(main, name, None)
    try:
        yield
    finally:
        for name, value in attributes.items():
            setattr(main, name, value)


def _begin() -> None:
    """Leave Ctrl-C to the parent, end when it ends, and keep libraries to one thread in each process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _collect_seldom()
    os.environ["RAYON_NUM_THREADS"] = "1"
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _collect_seldom() -> None:
    """Look for cycles of objects after many new ones only: rows make none, and the search takes 5 % of the time."""
    gc.set_threshold(COLLECT_AFTER)


def _end_with_parent() -> None:
    """A worker that waits for chunks holds both ends of their pipe, and would never see that its parent was killed."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
