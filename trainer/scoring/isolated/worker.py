"""Hand requests to a child process, and replace it where a request takes too long or ends it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import trainer

Request = dict[str, Any]
"""JSON object; its keys are those of the job."""
Reply = dict[str, Any]
Job = Literal["mathematics", "queries", "programs"]
MAX_REPLY_BYTES = 2**20
START_S = 60.0
"""Longest start of a child: a busy machine takes its time to import."""
PATIENCE = 4
"""Times of the processor time that a request may take on the clock: it may wait, and the machine may be busy."""
OUT_OF_TIME = (-signal.SIGPROF, -signal.SIGXCPU)
READY = {"timeout_s": START_S, "ready": True}
_CODE = (
    "import sys; sys.path.insert(0, {!r}); from trainer.scoring.isolated.child import main; main()"  # no other package
)
_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "SYSTEMROOT")


class IsolatedWorker:
    """A child process for one job.

    Args:
        job: What it does.
        memory_mib: Its address space.
        cpu_s: Its processor time in all; None for no limit.
        must_confine: Refuse to work where system calls cannot be filtered.
    """

    def __init__(self, job: Job, *, memory_mib: int, cpu_s: int | None = None, must_confine: bool = False) -> None:
        self.job = job
        self.settings = {"memory_mib": memory_mib, "cpu_s": cpu_s, "must_confine": must_confine}
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> IsolatedWorker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, request: Request, timeout_s: float) -> Reply:
        """Return the reply to a request; `{"error": reason}` where it took too long or ended the child.

        Args:
            request: What the job takes.
            timeout_s: Processor time; on the clock it may take `PATIENCE` times as long.
        """
        process = self._started()
        try:
            return _exchange(process, {**request, "timeout_s": timeout_s}, PATIENCE * timeout_s)
        except TimeoutError:
            self.close()
            return {"error": f"it takes longer than {timeout_s:g} s"}
        except (OSError, EOFError):
            ended = self._ended(process)
            return {"error": f"it takes longer than {timeout_s:g} s" if ended in OUT_OF_TIME else _ending(ended)}

    def close(self) -> None:
        """End the child; the next request starts another."""
        process, self.process = self.process, None
        if process is None:
            return
        process.kill()
        for stream in (process.stdin, process.stdout):
            if stream is not None:
                stream.close()
        process.wait()

    def _started(self) -> subprocess.Popen[bytes]:
        if self.process is None:
            root = str(Path(trainer.__file__).parents[1])
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-c", _CODE.format(root), self.job, json.dumps(self.settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                # no tokens, and one thread: each would take address space
                env={name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"OMP_NUM_THREADS": "1"},
                start_new_session=True,
                bufsize=0,
            )
            try:
                _exchange(self.process, READY, START_S)
            except (OSError, EOFError) as error:
                ended = _ending(self._ended(self.process))
                raise RuntimeError(f"the process for {self.job} does not start: {ended}") from error
        return self.process

    def _ended(self, process: subprocess.Popen[bytes]) -> int | None:
        """Return the exit code of a child without a reply: minus the signal that ended it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        code = process.poll()
        self.close()
        return code


def _ending(code: int | None) -> str:
    return f"its process ended by signal {-code}" if code and code < 0 else f"its process ended ({code})"


def _exchange(process: subprocess.Popen[bytes], request: Request, timeout_s: float) -> Reply:
    """Send a request and return the reply.

    Raises:
        TimeoutError: There is none in time.
        EOFError: The child has ended.
    """
    assert process.stdin is not None and process.stdout is not None
    deadline = time.monotonic() + timeout_s
    _write(process.stdin.fileno(), json.dumps(request).encode() + b"\n", deadline)
    reply = json.loads(_read_line(process.stdout.fileno(), deadline))
    assert isinstance(reply, dict)
    return reply


def _write(stream: int, line: bytes, deadline: float) -> None:
    os.set_blocking(stream, False)
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_WRITE)
        while line:
            if not selector.select(max(0.0, deadline - time.monotonic())):
                raise TimeoutError
            line = line[os.write(stream, line[:65536]) :]


def _read_line(stream: int, deadline: float) -> bytes:
    parts: list[bytes] = []
    size = 0
    with selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not (parts and parts[-1].endswith(b"\n")):
            left = deadline - time.monotonic()
            if left <= 0 or size > MAX_REPLY_BYTES or not selector.select(left):
                raise TimeoutError
            part = os.read(stream, 65536)
            if not part:
                raise EOFError
            parts.append(part)
            size += len(part)
    return b"".join(parts)
