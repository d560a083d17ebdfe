"""Start a worker process, send it requests, wait for answers, end it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

ANSWER_TIMEOUT_S = 1800
EXIT_TIMEOUT_S = 10
THREADS = 1

Answer = dict[str, Any]


class WorkerProcess:
    """A process that answers requests, one at a time."""

    def __init__(self, log: Path) -> None:
        """Start the process; what it prints goes to `log`."""
        self.log = log
        threads = str(THREADS)
        environment = os.environ | {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "TQDM_DISABLE": "1",
            "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
            "PYTHONUNBUFFERED": "1",
        }
        with log.open("wb") as file:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "trainer.verbs.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=file,
                env=environment,
            )
        self.buffer = b""

    def ask(self, request: dict[str, Any]) -> Answer:
        """Send a request and wait for its answer; a process that ends or hangs gives an `error`."""
        assert self.child.stdin is not None
        try:
            self.child.stdin.write(json.dumps(request).encode() + b"\n")
            self.child.stdin.flush()
        except BrokenPipeError:
            return {"error": f"the process ended: {self._last_words()}"}
        return self._answer(time.monotonic() + ANSWER_TIMEOUT_S)

    def _answer(self, deadline: float) -> Answer:
        assert self.child.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.child.stdout, selectors.EVENT_READ)
            while b"\n" not in self.buffer:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.close()
                    return {"error": f"no answer within {ANSWER_TIMEOUT_S} s"}
                read = os.read(self.child.stdout.fileno(), 1 << 16)
                if not read:
                    return {"error": f"the process ended: {self._last_words()}"}
                self.buffer += read
        line, _, self.buffer = self.buffer.partition(b"\n")
        return dict(json.loads(line))

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it printed nothing"

    def close(self) -> None:
        """End the process."""
        assert self.child.stdin is not None and self.child.stdout is not None
        self.child.stdin.close()
        try:
            self.child.wait(timeout=EXIT_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        self.child.stdout.close()

    def __enter__(self) -> WorkerProcess:
        """Return the process."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        """End it."""
        if error is not None:
            self.child.kill()  # it may be in the middle of a long step
        self.close()
